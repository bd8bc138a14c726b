//! The control files of a busy container on either version, as recorded, and what is made of them.

use std::collections::HashMap;

use super::*;

struct Recorded(HashMap<&'static str, &'static str>);

impl Recorded {
    fn of<const N: usize>(files: [(&'static str, &'static str); N]) -> Self {
        Recorded(files.into())
    }
}

impl Files for Recorded {
    fn read(&mut self, _controller: &str, file: &str) -> Option<String> {
        self.0.get(file).map(|text| (*text).to_owned())
    }
}

fn v1() -> Recorded {
    let stat = "cache 5279744\nrss 118784\nmapped_file 4096\nswap 7\npgfault 8690\npgmajfault 3\ninactive_file 1\n\
        hierarchical_memory_limit 79998976\ntotal_cache 5279744\ntotal_rss 118784\ntotal_mapped_file 8192\ntotal_swap 16384\n\
        total_pgfault 99999\ntotal_inactive_file 5279744\ntotal_active_file 4096\n";
    Recorded::of([
        ("cpuacct.usage", "4566602030\n"),
        ("cpuacct.stat", "user 171\nsystem 285\n"),
        ("cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 5000\nnr_bursts 0\nburst_time 0\n"),
        ("cpu.shares", "2\n"),
        ("cpu.cfs_period_us", "100000\n"),
        ("cpu.cfs_quota_us", "-1\n"),
        ("memory.stat", stat),
        ("memory.usage_in_bytes", "6225920\n"),
        ("memory.limit_in_bytes", "79998976\n"),
        ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
        ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
        ("memory.max_usage_in_bytes", "8000000\n"),
        ("memory.failcnt", "5\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("pids.current", "2\n"),
        ("pids.max", "max\n"),
        (
            "blkio.throttle.io_service_bytes_recursive",
            "254:0 Read 8192\n254:0 Write 4096\n254:0 Sync 1\n254:0 Total 12288\nTotal 12288\n",
        ),
        ("blkio.throttle.io_serviced_recursive", "254:0 Read 2\n254:0 Write 1\nTotal 3\n"),
    ])
}

fn v2() -> Recorded {
    let stat = "anon 118784\nfile 5279744\nkernel 40960\nfile_mapped 8192\ninactive_anon 1\nactive_anon 2\n\
        inactive_file 5279744\nactive_file 4096\npgfault 8690\npgmajfault 3\n";
    let cpu =
        "usage_usec 4566602\nuser_usec 1710000\nsystem_usec 2850000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5\n";
    let pressure = "some avg10=1.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
    Recorded::of([
        ("cpu.stat", cpu),
        ("cpu.weight", "1\n"),
        ("cpu.max", "50000 100000\n"),
        ("cpu.pressure", pressure),
        ("memory.stat", stat),
        ("memory.current", "6225920\n"),
        ("memory.max", "79998976\n"),
        ("memory.min", "0\n"),
        ("memory.peak", "8000000\n"),
        ("memory.swap.current", "16384\n"),
        ("memory.swap.max", "max\n"),
        ("memory.events", "low 0\nhigh 6\nmax 5\noom 0\noom_kill 2\noom_group_kill 0\n"),
        ("memory.pressure", pressure),
        ("io.pressure", pressure),
        ("io.stat", "254:0 rbytes=8192 wbytes=4096 rios=2 wios=1 dbytes=0 dios=0\n"),
        ("pids.current", "2\n"),
        ("pids.max", "100\n"),
    ])
}

const TRANSFER: Transfer =
    Transfer { major: 254, minor: 0, read_bytes: 8192, written_bytes: 4096, reads: 2, writes: 1 };

#[test]
fn all_of_v1() {
    let figures = of_v1(&mut v1(), Depth::Everything);
    let cpu = figures.cpu.unwrap();
    assert_eq!((cpu.usage, cpu.user, cpu.system), (4_566_602_030, 1_710_000_000, 2_850_000_000));
    assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled), (10, 4, 5000));
    assert_eq!((cpu.shares, cpu.period, cpu.quota), (2, 100_000, None));
    let memory = figures.memory.unwrap();
    assert_eq!((memory.usage, memory.working_set, memory.rss), (6_225_920, 946_176, 118_784));
    assert_eq!((memory.cache, memory.mapped_file, memory.swap), (5_279_744, 8192, 16_384));
    // The cgroup's own, as the peer shows them.
    assert_eq!((memory.page_faults, memory.major_page_faults), (8690, 3));
    assert_eq!((memory.limit, memory.swap_limit, memory.reservation), (Some(79_998_976), None, None));
    assert_eq!(memory.available(), Some(79_052_800));
    assert_eq!((memory.max_usage, memory.failures, memory.oom_kills), (8_000_000, 5, 2));
    assert_eq!(figures.tasks, Tasks { current: 2, max: 0 });
    assert_eq!(figures.io_pressure, Some(Pressure::default()));
    assert_eq!(figures.transfers, [TRANSFER]);
}

#[test]
fn all_of_v2() {
    let figures = of_v2(&mut v2(), Depth::Everything);
    let cpu = figures.cpu.unwrap();
    assert_eq!((cpu.usage, cpu.user, cpu.system), (4_566_602_000, 1_710_000_000, 2_850_000_000));
    assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled), (10, 4, 5000));
    assert_eq!((cpu.shares, cpu.period, cpu.quota), (2, 100_000, Some(50_000)));
    assert_eq!((cpu.pressure.some.total, cpu.pressure.full.total), (77, 5));
    let memory = figures.memory.unwrap();
    assert_eq!((memory.usage, memory.working_set, memory.rss), (6_225_920, 946_176, 118_784));
    assert_eq!((memory.cache, memory.mapped_file, memory.swap, memory.kernel), (5_279_744, 8192, 16_384, 40_960));
    assert_eq!((memory.limit, memory.swap_limit, memory.reservation), (Some(79_998_976), None, None));
    assert_eq!((memory.events_high, memory.events_max, memory.oom_kills), (6, 5, 2));
    assert_eq!(figures.tasks, Tasks { current: 2, max: 100 });
    assert_eq!(figures.io_pressure.map(|p| p.some.total), Some(77));
    assert_eq!(figures.transfers, [TRANSFER]);
}

#[test]
fn a_brief_reading_has_what_it_needs_and_no_more() {
    for figures in [of_v1(&mut v1(), Depth::Brief), of_v2(&mut v2(), Depth::Brief)] {
        assert_eq!(figures.memory.map(|m| (m.working_set, m.limit)), Some((946_176, Some(79_998_976))));
        assert!(figures.cpu.is_some_and(|cpu| cpu.usage > 0 && cpu.pressure == Pressure::default()));
        assert_eq!((figures.tasks, figures.io_pressure), (Tasks::default(), None));
    }
}

#[test]
fn what_is_not_there_is_none_and_nonsense_is_nothing() {
    assert_eq!(of_v2(&mut Recorded::of([]), Depth::Brief), Figures::default());
    let figures = of_v1(&mut Recorded::of([("cpuacct.usage", "x"), ("memory.usage_in_bytes", "5")]), Depth::Brief);
    assert_eq!(figures.cpu, None);
    assert_eq!(figures.memory.map(|m| (m.usage, m.working_set, m.limit, m.swap_limit)), Some((5, 5, None, Some(0))));
    assert!(transfers_v1("nonsense\n1:x Read 4\n", "").is_empty());
    assert!(transfers_v2("\n:: rbytes=1\n").is_empty());
}

#[test]
fn a_limit_beyond_all_memory_is_none() {
    let limit = |text| limit(&mut Recorded::of([("memory.max", text)]), "memory.max");
    assert_eq!(limit("4611686018427387904\n"), Some(1 << 62));
    assert_eq!([limit("4611686018427387905\n"), limit("9223372036854771712\n"), limit("max\n")], [None; 3]);
}
