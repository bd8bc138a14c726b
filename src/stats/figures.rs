//! What one cgroup uses, from the text of its control files. Pure.
//!
//! The figures are those that the peer's cAdvisor takes from the same files (`google/cadvisor/lib/container/libcontainer`): the
//! working set is the usage without the inactive file pages, faults are those of the cgroup itself on v1 and of all below it
//! on v2.

use std::collections::BTreeMap;

use super::pressure::{self, Pressure};

/// A limit above this counts as none, as in the peer: the kernel rounds the largest number to pages.
const UNLIMITED: u64 = 1 << 62;
/// Length of a tick of `cpuacct.stat`, nanoseconds (USER_HZ is 100 on every architecture that Kubernetes knows).
const TICK: u64 = 10_000_000;

/// How much is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// CPU time and memory.
    Brief,
    /// Pressure and tasks, too.
    Full,
    /// All, limits and input/output too.
    Everything,
}

/// Where a cgroup's control files are read from.
pub(super) trait Files {
    /// The content of a file of a controller (v1) or of the cgroup (v2); none if it is not there.
    fn read(&mut self, controller: &str, file: &str) -> Option<String>;
}

/// What a cgroup uses; what the kernel does not tell is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Stalls for input and output; none where the kernel has no such controller.
    pub io_pressure: Option<Pressure>,
    /// Tasks, threads counted.
    pub tasks: Tasks,
    /// Bytes and operations by device and direction.
    pub transfers: Vec<Transfer>,
}

/// Processor time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cpu {
    /// All time, nanoseconds.
    pub usage: u64,
    /// Time outside the kernel, nanoseconds.
    pub user: u64,
    /// Time in the kernel, nanoseconds.
    pub system: u64,
    /// Periods of the quota that passed.
    pub periods: u64,
    /// Those in which it ran out.
    pub throttled_periods: u64,
    /// Time for which it was held up, nanoseconds.
    pub throttled: u64,
    /// CPU shares, on v2 by the weight.
    pub shares: u64,
    /// Length of the quota's period, microseconds.
    pub period: u64,
    /// Quota per period, microseconds; none without one.
    pub quota: Option<u64>,
    /// Stalls.
    pub pressure: Pressure,
}

/// Memory, bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// All, page cache counted.
    pub usage: u64,
    /// All but inactive file pages.
    pub working_set: u64,
    /// Anonymous pages.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Mapped file pages.
    pub mapped_file: u64,
    /// Swapped out.
    pub swap: u64,
    /// Active file pages.
    pub active_file: u64,
    /// Inactive file pages.
    pub inactive_file: u64,
    /// The kernel's.
    pub kernel: u64,
    /// The most that was ever used; 0 where the kernel does not tell.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// How often `memory.high` was passed.
    pub events_high: u64,
    /// How often `memory.max` was hit.
    pub events_max: u64,
    /// How often the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that had to read.
    pub major_page_faults: u64,
    /// Limit; none without one.
    pub limit: Option<u64>,
    /// Limit of swap, on v1 of memory and swap together; none without one.
    pub swap_limit: Option<u64>,
    /// What is kept for it; none without.
    pub reservation: Option<u64>,
    /// Stalls.
    pub pressure: Pressure,
}

/// Tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// How many there are.
    pub current: u64,
    /// How many there may be; 0 without a limit.
    pub max: u64,
}

/// What went to or from a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Device number, major.
    pub major: u32,
    /// Device number, minor.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

impl Memory {
    /// What can still be used; none without a limit.
    pub fn available(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.working_set))
    }
}

/// The figures of a cgroup of the v1 hierarchies.
pub(super) fn of_v1(files: &mut impl Files, depth: Depth) -> Figures {
    let mut figures = Figures { cpu: cpu_v1(files, depth), memory: memory_v1(files, depth), ..Figures::default() };
    if depth >= Depth::Full {
        // The peer shows a v1 cgroup's stalls as zero: the kernel counts none.
        figures.io_pressure = Some(Pressure::default());
        figures.tasks = tasks(files);
    }
    if depth == Depth::Everything {
        let bytes = files.read("blkio", "blkio.throttle.io_service_bytes_recursive").unwrap_or_default();
        let operations = files.read("blkio", "blkio.throttle.io_serviced_recursive").unwrap_or_default();
        figures.transfers = transfers_v1(&bytes, &operations);
    }
    figures
}

/// The figures of a cgroup of the v2 hierarchy.
pub(super) fn of_v2(files: &mut impl Files, depth: Depth) -> Figures {
    let mut figures = Figures { cpu: cpu_v2(files, depth), memory: memory_v2(files, depth), ..Figures::default() };
    if depth >= Depth::Full {
        figures.io_pressure = files.read("io", "io.pressure").map(|text| pressure::parse(&text));
        figures.tasks = tasks(files);
    }
    if depth == Depth::Everything {
        figures.transfers = files.read("io", "io.stat").map(|text| transfers_v2(&text)).unwrap_or_default();
    }
    figures
}

fn cpu_v1(files: &mut impl Files, depth: Depth) -> Option<Cpu> {
    let usage = number(&files.read("cpuacct", "cpuacct.usage")?)?;
    let mut cpu = Cpu { usage, ..Cpu::default() };
    if depth == Depth::Everything {
        let times = Table::read(files, "cpuacct", "cpuacct.stat").unwrap_or_default();
        cpu.user = times.of("user").saturating_mul(TICK);
        cpu.system = times.of("system").saturating_mul(TICK);
        let throttling = Table::read(files, "cpu", "cpu.stat").unwrap_or_default();
        cpu.periods = throttling.of("nr_periods");
        cpu.throttled_periods = throttling.of("nr_throttled");
        cpu.throttled = throttling.of("throttled_time");
        cpu.shares = single(files, "cpu", "cpu.shares");
        cpu.period = single(files, "cpu", "cpu.cfs_period_us");
        cpu.quota = files.read("cpu", "cpu.cfs_quota_us").and_then(|text| number(&text)).filter(|quota| *quota > 0);
    }
    Some(cpu)
}

fn cpu_v2(files: &mut impl Files, depth: Depth) -> Option<Cpu> {
    let stat = Table::read(files, "cpu", "cpu.stat")?;
    let mut cpu = Cpu {
        usage: stat.of("usage_usec").saturating_mul(1000),
        user: stat.of("user_usec").saturating_mul(1000),
        system: stat.of("system_usec").saturating_mul(1000),
        periods: stat.of("nr_periods"),
        throttled_periods: stat.of("nr_throttled"),
        throttled: stat.of("throttled_usec").saturating_mul(1000),
        ..Cpu::default()
    };
    if depth >= Depth::Full {
        cpu.pressure = files.read("cpu", "cpu.pressure").map(|text| pressure::parse(&text)).unwrap_or_default();
    }
    if depth == Depth::Everything {
        cpu.shares = match single(files, "cpu", "cpu.weight") {
            0 => 0,
            weight => 2 + (weight - 1) * 262_142 / 9999,
        };
        let max = files.read("cpu", "cpu.max").unwrap_or_default();
        let mut max = max.split_whitespace();
        cpu.quota = max.next().and_then(number);
        cpu.period = max.next().and_then(number).unwrap_or(0);
    }
    Some(cpu)
}

fn memory_v1(files: &mut impl Files, depth: Depth) -> Option<Memory> {
    let usage = number(&files.read("memory", "memory.usage_in_bytes")?)?;
    let stat = Table::read(files, "memory", "memory.stat").unwrap_or_default();
    let inactive_file = stat.of("total_inactive_file");
    let mut memory = Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        rss: stat.of("total_rss"),
        cache: stat.of("total_cache"),
        mapped_file: stat.of("total_mapped_file"),
        swap: stat.of("total_swap"),
        active_file: stat.of("total_active_file"),
        inactive_file,
        page_faults: stat.of("pgfault"),
        major_page_faults: stat.of("pgmajfault"),
        limit: limit(files, "memory.limit_in_bytes"),
        // Without swap accounting there is no such file, which the peer takes for a limit of 0.
        swap_limit: bounded(single(files, "memory", "memory.memsw.limit_in_bytes")),
        ..Memory::default()
    };
    if depth == Depth::Everything {
        memory.reservation = limit(files, "memory.soft_limit_in_bytes");
        memory.max_usage = single(files, "memory", "memory.max_usage_in_bytes");
        memory.failures = single(files, "memory", "memory.failcnt");
        memory.kernel = single(files, "memory", "memory.kmem.usage_in_bytes");
        memory.oom_kills = Table::read(files, "memory", "memory.oom_control").unwrap_or_default().of("oom_kill");
    }
    Some(memory)
}

fn memory_v2(files: &mut impl Files, depth: Depth) -> Option<Memory> {
    let stat = Table::read(files, "memory", "memory.stat")?;
    let usage = single(files, "memory", "memory.current");
    let inactive_file = stat.of("inactive_file");
    let mut memory = Memory {
        usage,
        working_set: usage.saturating_sub(inactive_file),
        rss: stat.of("anon"),
        cache: stat.of("file"),
        mapped_file: stat.of("file_mapped"),
        swap: single(files, "memory", "memory.swap.current"),
        active_file: stat.of("active_file"),
        inactive_file,
        kernel: stat.of("kernel"),
        page_faults: stat.of("pgfault"),
        major_page_faults: stat.of("pgmajfault"),
        limit: limit(files, "memory.max"),
        swap_limit: limit(files, "memory.swap.max"),
        ..Memory::default()
    };
    if depth >= Depth::Full {
        memory.pressure =
            files.read("memory", "memory.pressure").map(|text| pressure::parse(&text)).unwrap_or_default();
    }
    if depth == Depth::Everything {
        memory.reservation = limit(files, "memory.min").filter(|kept| *kept > 0);
        memory.max_usage = single(files, "memory", "memory.peak");
        let events = Table::read(files, "memory", "memory.events").unwrap_or_default();
        memory.events_high = events.of("high");
        memory.events_max = events.of("max");
        memory.failures = events.of("max");
        memory.oom_kills = events.of("oom_kill");
    }
    Some(memory)
}

fn tasks(files: &mut impl Files) -> Tasks {
    Tasks { current: single(files, "pids", "pids.current"), max: single(files, "pids", "pids.max") }
}

/// `8:0 Read 4096` by lines; totals have no device.
fn transfers_v1(bytes: &str, operations: &str) -> Vec<Transfer> {
    let mut devices: BTreeMap<(u32, u32), Transfer> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(device), Some(direction), Some(count)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some(transfer), Some(count)) = (device_of(&mut devices, device), number(count)) else { continue };
            match (direction, is_bytes) {
                ("Read", true) => transfer.read_bytes = count,
                ("Write", true) => transfer.written_bytes = count,
                ("Read", false) => transfer.reads = count,
                ("Write", false) => transfer.writes = count,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...` by lines.
fn transfers_v2(text: &str) -> Vec<Transfer> {
    let mut devices = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(transfer) = words.next().and_then(|device| device_of(&mut devices, device)) else { continue };
        for (key, count) in words.filter_map(|word| word.split_once('=')) {
            let count = number(count).unwrap_or(0);
            match key {
                "rbytes" => transfer.read_bytes = count,
                "wbytes" => transfer.written_bytes = count,
                "rios" => transfer.reads = count,
                "wios" => transfer.writes = count,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

fn device_of<'a>(devices: &'a mut BTreeMap<(u32, u32), Transfer>, device: &str) -> Option<&'a mut Transfer> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let fresh = Transfer { major, minor, read_bytes: 0, written_bytes: 0, reads: 0, writes: 0 };
    Some(devices.entry((major, minor)).or_insert(fresh))
}

/// A file of lines `key value`.
#[derive(Default)]
struct Table(String);

impl Table {
    fn read(files: &mut impl Files, controller: &str, file: &str) -> Option<Table> {
        files.read(controller, file).map(Table)
    }

    /// The value of a key; 0 without one.
    fn of(&self, key: &str) -> u64 {
        let value = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.and_then(number).unwrap_or(0)
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn single(files: &mut impl Files, controller: &str, file: &str) -> u64 {
    files.read(controller, file).and_then(|text| number(&text)).unwrap_or(0)
}

/// A limit of memory; none for `max`, for what is as good as none, and without the file.
fn limit(files: &mut impl Files, file: &str) -> Option<u64> {
    bounded(number(&files.read("memory", file)?)?)
}

fn bounded(limit: u64) -> Option<u64> {
    (limit <= UNLIMITED).then_some(limit)
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
