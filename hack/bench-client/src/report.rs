//! Medians over the rounds, side by side, as a table and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::figures::{Figures, quantile};

const FLOOR: &str = "floor";
const API_FLOOR: &str = "api-floor";
const PEER: &str = "kubelet";
const OURS: &str = "ferrolet";
/// Compared with nothing: the figure itself has a limit.
const ITSELF: &str = "";

/// A limit that no figure is above: the line is there to explain others.
const ANY: f64 = f64::INFINITY;

/// A line of the table: what it says, the figure, what it is compared with, and the most that the ratio, or the figure itself,
/// may be.
struct Line {
    title: &'static str,
    figure: &'static str,
    against: &'static str,
    wanted: f64,
}

const LINES: [Line; 22] = [
    Line { title: "one pod, bound to Ready (s)", figure: "serial_ready", against: FLOOR, wanted: 1.2 },
    Line { title: "one pod, delete to gone (s)", figure: "serial_gone", against: FLOOR, wanted: 1.2 },
    Line { title: "burst, all Ready (s)", figure: "burst_ready", against: FLOOR, wanted: 1.1 },
    Line { title: "burst, all gone (s)", figure: "burst_gone", against: FLOOR, wanted: 1.1 },
    // What the times above are made of.
    Line {
        title: "burst to Ready, CPU of the machine (s)",
        figure: "burst_ready_machine_cpu_seconds",
        against: FLOOR,
        wanted: ANY,
    },
    Line {
        title: "burst to gone, CPU of the machine (s)",
        figure: "burst_gone_machine_cpu_seconds",
        against: FLOOR,
        wanted: ANY,
    },
    Line { title: "idle CPU (s a minute)", figure: "idle_cpu_seconds_per_minute", against: PEER, wanted: 0.1 },
    Line { title: "RSS with the burst's pods (MiB)", figure: "rss_mib", against: PEER, wanted: 0.25 },
    Line { title: "a log of 1 GiB (s)", figure: "log_seconds", against: PEER, wanted: 1.0 },
    Line { title: "a log of 1 GiB, RSS grown (MiB)", figure: "log_rss_grown_mib", against: ITSELF, wanted: 8.0 },
    Line { title: "256 MiB by port-forward (s)", figure: "forward_seconds", against: PEER, wanted: 1.0 },
    Line {
        title: "256 MiB by port-forward, RSS grown (MiB)",
        figure: "forward_rss_grown_mib",
        against: ITSELF,
        wanted: 8.0,
    },
    Line { title: "/stats/summary, 100 pods (s)", figure: "scrape_summary", against: PEER, wanted: 1.0 },
    Line { title: "/stats/summary, CPU (s)", figure: "scrape_summary_cpu_seconds", against: PEER, wanted: 1.0 },
    Line { title: "/metrics (s)", figure: "scrape_metrics", against: PEER, wanted: 1.0 },
    Line { title: "/metrics, CPU (s)", figure: "scrape_metrics_cpu_seconds", against: PEER, wanted: 1.0 },
    Line { title: "/metrics/resource (s)", figure: "scrape_resource", against: PEER, wanted: 1.0 },
    Line { title: "/metrics/resource, CPU (s)", figure: "scrape_resource_cpu_seconds", against: PEER, wanted: 1.0 },
    Line { title: "/metrics/cadvisor (s)", figure: "scrape_cadvisor", against: PEER, wanted: 1.0 },
    Line { title: "/metrics/cadvisor, CPU (s)", figure: "scrape_cadvisor_cpu_seconds", against: PEER, wanted: 1.0 },
    Line { title: "RSS after scrapes (MiB)", figure: "scraped_rss_mib", against: PEER, wanted: 0.25 },
    Line {
        title: "probes of 100 pods, CPU (s a minute)",
        figure: "probing_cpu_seconds_per_minute",
        against: PEER,
        wanted: 0.33,
    },
];

type Medians = BTreeMap<String, Figures>;

pub(crate) fn report(rounds: &Path, json: Option<&Path>) -> Result<()> {
    let raw = read(rounds)?;
    let medians = medians(&raw);
    std::io::stdout().write_all(table(&medians).as_bytes())?;
    if let Some(path) = json {
        let text = serde_json::to_vec_pretty(&document(&raw, &medians))?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The figures of every round, by subject.
fn read(rounds: &Path) -> Result<BTreeMap<String, Vec<Figures>>> {
    let mut found: BTreeMap<String, Vec<Figures>> = BTreeMap::new();
    let mut paths = std::fs::read_dir(rounds)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    for path in paths {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if let Some((_, subject)) = stem.split_once('-').filter(|_| path.extension().is_some_and(|e| e == "json")) {
            found.entry(subject.to_owned()).or_default().push(Figures::read(&path)?);
        }
    }
    Ok(found)
}

fn medians(raw: &BTreeMap<String, Vec<Figures>>) -> Medians {
    let of = |rounds: &Vec<Figures>| {
        let names: BTreeSet<&String> = rounds.iter().flat_map(|figures| figures.0.keys()).collect();
        let mut medians = Figures::default();
        for name in names {
            let samples: Vec<f64> = rounds.iter().filter_map(|figures| figures.0.get(name).copied()).collect();
            if let Some(median) = quantile(&samples, 0.5) {
                medians.set(name.clone(), median);
            }
        }
        medians
    };
    raw.iter().map(|(subject, rounds)| (subject.clone(), of(rounds))).map(with_best_burst).collect()
}

/// A floor is the best of several numbers of pods handled at a time, each by its median: the best of single bursts would be
/// the luckiest, which no median of an agent's bursts can match.
fn with_best_burst((subject, mut figures): (String, Figures)) -> (String, Figures) {
    figures.choose_burst("burst_ready");
    figures.choose_burst("burst_gone");
    (subject, figures)
}

fn value(medians: &Medians, subject: &str, figure: &str) -> Option<f64> {
    medians.get(subject)?.0.get(figure).copied()
}

fn ratio(medians: &Medians, subject: &str, against: &str, figure: &str) -> Option<f64> {
    let ratio = value(medians, subject, figure)? / value(medians, against, figure)?;
    Some((ratio * 1000.0).round() / 1000.0)
}

fn table(medians: &Medians) -> String {
    let cell = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |n| format!("{n:.3}"));
    let mut rows = vec![
        [
            "",
            "floor",
            "with API",
            "kubelet",
            "ferrolet",
            "kubelet / floor",
            "ferrolet / floor",
            "ferrolet / with API",
            "ferrolet / kubelet",
            "wanted",
        ]
        .map(str::to_owned),
    ];
    for line in LINES.iter().filter(|line| medians.values().any(|figures| figures.0.contains_key(line.figure))) {
        let between = |a, b| Some(value(medians, a, line.figure)? / value(medians, b, line.figure)?);
        let wanted = match line.against {
            _ if line.wanted == ANY => "-".to_owned(),
            ITSELF => format!("<= {}", line.wanted),
            against => format!("<= {} x {against}", line.wanted),
        };
        rows.push([
            line.title.to_owned(),
            cell(value(medians, FLOOR, line.figure)),
            cell(value(medians, API_FLOOR, line.figure)),
            cell(value(medians, PEER, line.figure)),
            cell(value(medians, OURS, line.figure)),
            cell(between(PEER, FLOOR)),
            cell(between(OURS, FLOOR)),
            cell(between(OURS, API_FLOOR)),
            cell(between(OURS, PEER)),
            wanted,
        ]);
    }
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default()).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if index == 0 {
            let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push_str(&format!("| {} |\n", dashes.join(" | ")));
        }
    }
    text
}

fn document(raw: &BTreeMap<String, Vec<Figures>>, medians: &Medians) -> Value {
    let to_floor = |subject| -> Value {
        LINES
            .iter()
            .filter(|line| line.against == FLOOR)
            .map(|line| (line.figure.to_owned(), json!(ratio(medians, subject, line.against, line.figure))))
            .collect()
    };
    let to_api_floor = |subject| -> Value {
        LINES
            .iter()
            .filter_map(|line| Some((line.figure.to_owned(), json!(ratio(medians, subject, API_FLOOR, line.figure)?))))
            .collect()
    };
    let against_peer: Value = LINES
        .iter()
        .filter(|line| line.against == PEER)
        .filter_map(|line| Some((line.figure.to_owned(), json!(ratio(medians, OURS, line.against, line.figure)?))))
        .collect();
    let to_peer = |figure| {
        LINES.iter().find(|line| line.figure == figure).and_then(|line| ratio(medians, OURS, line.against, figure))
    };
    json!({
        "ratios_to_floor": to_floor(OURS),
        "ratios_to_floor_with_api": to_api_floor(OURS),
        "rss_to_peer": to_peer("rss_mib"),
        "idle_cpu_to_peer": to_peer("idle_cpu_seconds_per_minute"),
        "ratios_to_peer": against_peer,
        "peer_ratios_to_floor": to_floor(PEER),
        "medians": medians,
        "rounds": raw,
    })
}
