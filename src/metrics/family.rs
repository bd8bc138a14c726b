//! Counters, gauges and histograms with labels, to be made as `static`s.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::text::{Exposition, Kind, float};

/// Series that a family holds; what would make more of them is not counted.
pub const MAX_SERIES: usize = 2000;

/// Buckets of most durations (Prometheus' defaults).
pub const DEFAULT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What a family is called.
#[derive(Debug)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
}

/// A family as the encoder sees it.
pub trait Family: Sync {
    /// What it is called.
    fn description(&self) -> &Description;

    /// Writes it with its samples; nothing without any.
    fn write(&self, text: &mut Exposition);
}

/// A series: the values of its labels, and its own.
type Labelled<T> = (Box<[Box<str>]>, T);

/// Series by the values of their labels, in order.
#[derive(Debug)]
struct Series<T>(Mutex<Vec<Labelled<T>>>);

impl<T> Series<T> {
    const fn new() -> Self {
        Series(Mutex::new(Vec::new()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Labelled<T>>> {
        // A count is whole after every step, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, values: &[&str], make: impl FnOnce() -> T, change: impl FnOnce(&mut T)) {
        let mut series = self.lock();
        let found = series.binary_search_by(|(known, _)| known.iter().map(|v| &**v).cmp(values.iter().copied()));
        match found {
            Ok(at) => change(&mut series[at].1),
            Err(at) if series.len() < MAX_SERIES => {
                let mut value = make();
                change(&mut value);
                series.insert(at, (values.iter().map(|v| (*v).into()).collect(), value));
            }
            Err(_) => {}
        }
    }
}

fn pairs<'a>(description: &'a Description, values: &'a [Box<str>]) -> impl Iterator<Item = (&'a str, &'a str)> {
    description.labels.iter().copied().zip(values.iter().map(|v| &**v))
}

fn write_numbers(description: &Description, kind: Kind, series: &Series<f64>, text: &mut Exposition) {
    let series = series.lock();
    if series.is_empty() && !description.labels.is_empty() {
        return;
    }
    text.family(description.name, description.help, kind);
    if series.is_empty() {
        text.sample(description.name, [], 0.0, None);
    }
    for (values, value) in series.iter() {
        text.sample(description.name, pairs(description, values), *value, None);
    }
}

/// A family of counters.
#[derive(Debug)]
pub struct Counter {
    description: Description,
    series: Series<f64>,
}

impl Counter {
    /// A family without series; one without labels is shown as 0 from the beginning.
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Counter { description: Description { name, help, labels }, series: Series::new() }
    }

    /// Counts one more; `values` are the labels' values in the order of the labels.
    pub fn increment(&self, values: &[&str]) {
        self.add(values, 1.0);
    }

    /// Counts `by` more.
    pub fn add(&self, values: &[&str], by: f64) {
        debug_assert_eq!(values.len(), self.description.labels.len(), "{}", self.description.name);
        self.series.with(values, || 0.0, |value| *value += by);
    }

    /// Begins anew, without series.
    pub fn clear(&self) {
        self.series.lock().clear();
    }

    /// Takes over a count that someone else keeps, such as the kernel.
    pub fn take_over(&self, values: &[&str], count: f64) {
        self.series.with(values, || 0.0, |value| *value = count);
    }
}

impl Family for Counter {
    fn description(&self) -> &Description {
        &self.description
    }

    fn write(&self, text: &mut Exposition) {
        write_numbers(&self.description, Kind::Counter, &self.series, text);
    }
}

/// A family of gauges.
#[derive(Debug)]
pub struct Gauge {
    description: Description,
    series: Series<f64>,
}

impl Gauge {
    /// A family without series; one without labels is shown as 0 from the beginning.
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Gauge { description: Description { name, help, labels }, series: Series::new() }
    }

    /// Sets a series.
    pub fn set(&self, values: &[&str], to: f64) {
        debug_assert_eq!(values.len(), self.description.labels.len(), "{}", self.description.name);
        self.series.with(values, || 0.0, |value| *value = to);
    }

    /// Changes a series by `by`.
    pub fn add(&self, values: &[&str], by: f64) {
        self.series.with(values, || 0.0, |value| *value += by);
    }

    /// Sets all series at once, in place of those that were: whoever asks sees the ones or the others.
    pub fn replace<'a, const LABELS: usize>(&self, series: impl IntoIterator<Item = ([&'a str; LABELS], f64)>) {
        debug_assert_eq!(LABELS, self.description.labels.len(), "{}", self.description.name);
        let owned = |values: [&str; LABELS]| values.iter().map(|value| (*value).into()).collect();
        let series = series.into_iter().take(MAX_SERIES);
        let mut series: Vec<Labelled<f64>> = series.map(|(values, value)| (owned(values), value)).collect();
        series.sort_by(|(a, _), (b, _)| a.cmp(b));
        *self.series.lock() = series;
    }
}

impl Family for Gauge {
    fn description(&self) -> &Description {
        &self.description
    }

    fn write(&self, text: &mut Exposition) {
        write_numbers(&self.description, Kind::Gauge, &self.series, text);
    }
}

/// A gauge without labels that is only shown once it is set: where 0 would be a lie.
#[derive(Debug)]
pub struct LateGauge(Gauge);

impl LateGauge {
    /// A gauge that is not shown yet.
    pub const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        LateGauge(Gauge::new(name, help, labels))
    }

    /// Sets it.
    pub fn set(&self, to: f64) {
        self.0.set(&[], to);
    }
}

impl Family for LateGauge {
    fn description(&self) -> &Description {
        &self.0.description
    }

    fn write(&self, text: &mut Exposition) {
        if !self.0.series.lock().is_empty() {
            self.0.write(text);
        }
    }
}

#[derive(Debug)]
struct Distribution {
    /// By bucket, without those of the smaller ones; the last is beyond all bounds.
    counts: Box<[u64]>,
    sum: f64,
}

/// A family of histograms.
#[derive(Debug)]
pub struct Histogram {
    description: Description,
    /// Upper bounds of the buckets, ascending.
    bounds: &'static [f64],
    series: Series<Distribution>,
}

impl Histogram {
    /// A family without series; one without labels is shown from the beginning.
    pub const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Self {
        Histogram { description: Description { name, help, labels }, bounds, series: Series::new() }
    }

    /// Counts an observation.
    pub fn observe(&self, values: &[&str], observed: f64) {
        debug_assert_eq!(values.len(), self.description.labels.len(), "{}", self.description.name);
        let bucket = self.bounds.partition_point(|bound| *bound < observed);
        self.series.with(
            values,
            || self.nothing(),
            |distribution| {
                distribution.counts[bucket] += 1;
                distribution.sum += observed;
            },
        );
    }

    fn nothing(&self) -> Distribution {
        Distribution { counts: vec![0; self.bounds.len() + 1].into(), sum: 0.0 }
    }

    fn write_one(&self, text: &mut Exposition, values: &[Box<str>], distribution: &Distribution) {
        let Description { name, .. } = self.description;
        let (bucket, sum, count) = (format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count"));
        let mut seen = 0;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, here) in bounds.zip(&distribution.counts) {
            seen += here;
            let bound = super::text::float_text(bound);
            let labels = pairs(&self.description, values).chain([("le", bound.as_str())]);
            text.sample(&bucket, labels, float(seen), None);
        }
        text.sample(&sum, pairs(&self.description, values), distribution.sum, None);
        text.sample(&count, pairs(&self.description, values), float(seen), None);
    }
}

impl Family for Histogram {
    fn description(&self) -> &Description {
        &self.description
    }

    fn write(&self, text: &mut Exposition) {
        let series = self.series.lock();
        if series.is_empty() && !self.description.labels.is_empty() {
            return;
        }
        text.family(self.description.name, self.description.help, Kind::Histogram);
        if series.is_empty() {
            self.write_one(text, &[], &self.nothing());
        }
        for (values, distribution) in series.iter() {
            self.write_one(text, values, distribution);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(family: &dyn Family) -> String {
        let mut text = Exposition::new();
        family.write(&mut text);
        text.finish()
    }

    #[test]
    fn series_are_shown_in_order_and_families_without_labels_from_the_beginning() {
        static BY_VERB: Counter = Counter::new("by_verb_total", "h", &["verb"]);
        static ALL: Gauge = Gauge::new("all", "h", &[]);
        assert_eq!(text_of(&BY_VERB), "");
        assert_eq!(text_of(&ALL), "# HELP all h\n# TYPE all gauge\nall 0\n");
        BY_VERB.increment(&["put"]);
        BY_VERB.increment(&["get"]);
        BY_VERB.add(&["put"], 2.0);
        ALL.set(&[], 7.0);
        let samples = "by_verb_total{verb=\"get\"} 1\nby_verb_total{verb=\"put\"} 3\n";
        assert_eq!(text_of(&BY_VERB), format!("# HELP by_verb_total h\n# TYPE by_verb_total counter\n{samples}"));
        assert!(text_of(&ALL).ends_with("all 7\n"));
    }

    #[test]
    fn a_late_gauge_is_shown_once_it_is_set() {
        static LATE: LateGauge = LateGauge::new("late", "h", &[]);
        assert_eq!(text_of(&LATE), "");
        LATE.set(f64::INFINITY);
        assert!(text_of(&LATE).ends_with("late +Inf\n"));
    }

    #[test]
    fn replaced_series_are_gone() {
        static GAUGE: Gauge = Gauge::new("g", "h", &["pod"]);
        GAUGE.set(&["a"], 1.0);
        GAUGE.replace([(["c"], 3.0), (["b"], 2.0)]);
        GAUGE.add(&["c"], 1.0);
        assert!(text_of(&GAUGE).ends_with("gauge\ng{pod=\"b\"} 2\ng{pod=\"c\"} 4\n"));
        GAUGE.replace::<1>([]);
        assert_eq!(text_of(&GAUGE), "");
    }

    #[test]
    fn buckets_add_up_and_a_bound_belongs_to_its_bucket() {
        static SECONDS: Histogram = Histogram::new("s", "h", &["op"], &[0.5, 1.0]);
        for observed in [0.5, 0.75, 1.0, 4.0] {
            SECONDS.observe(&["x"], observed);
        }
        let expected = "# HELP s h\n# TYPE s histogram\ns_bucket{op=\"x\",le=\"0.5\"} 1\ns_bucket{op=\"x\",le=\"1\"} 3\n\
            s_bucket{op=\"x\",le=\"+Inf\"} 4\ns_sum{op=\"x\"} 6.25\ns_count{op=\"x\"} 4\n";
        assert_eq!(text_of(&SECONDS), expected);
    }

    #[test]
    fn a_family_is_bounded() {
        static MANY: Counter = Counter::new("m", "h", &["n"]);
        for n in 0..=MAX_SERIES {
            MANY.increment(&[&n.to_string()]);
        }
        assert_eq!(text_of(&MANY).lines().count(), MAX_SERIES + 2);
    }
}
