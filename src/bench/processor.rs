//! Processor time while a run goes on: of the loading thread, of the server's process, of the whole machine.

use super::figure::Cpu;
use std::time::Duration;

/// Clock ticks a second in /proc: fixed for user space on Linux.
const TICKS_PER_SECOND: u64 = 100;

/// Which process serves, where it runs on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Server {
    pub pid: Option<u32>,
}

/// Counters at one moment.
pub struct Snapshot {
    thread_ns: Option<u64>,
    server_ns: Option<u64>,
    machine: Option<Machine>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Machine {
    busy: u64,
    total: u64,
}

impl Snapshot {
    /// Reads the counters of now; what cannot be read is left out.
    pub fn take(server: Server) -> Snapshot {
        let stat = |path: String| std::fs::read_to_string(path).ok();
        Snapshot {
            thread_ns: thread_ns(),
            server_ns: server.pid.and_then(|pid| parse_process(&stat(format!("/proc/{pid}/stat"))?)),
            machine: stat("/proc/stat".to_owned()).and_then(|text| parse_machine(&text)),
        }
    }

    /// What was used since an earlier snapshot.
    pub fn since(&self, earlier: &Snapshot) -> Cpu {
        let difference = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Cpu {
            client_ns: difference(self.thread_ns, earlier.thread_ns),
            server_ns: difference(self.server_ns, earlier.server_ns),
            machine_permille: self.machine.zip(earlier.machine).and_then(|(now, then)| now.busy_since(then)),
        }
    }
}

impl Machine {
    fn busy_since(self, then: Machine) -> Option<u32> {
        let total = self.total.saturating_sub(then.total);
        let busy = self.busy.saturating_sub(then.busy);
        busy.checked_mul(1000)?.checked_div(total).and_then(|permille| u32::try_from(permille).ok())
    }
}

fn thread_ns() -> Option<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
    u64::try_from(Duration::from(time).as_nanos()).ok()
}

/// User and system time of a process, nanoseconds, from /proc/PID/stat (fields 14 and 15, proc_pid_stat(5)).
fn parse_process(text: &str) -> Option<u64> {
    // The second field is the name in parentheses and may hold anything, also spaces and parentheses.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(system)?.checked_mul(1_000_000_000 / TICKS_PER_SECOND)
}

/// Busy and total ticks of all processors, from the first line of /proc/stat (proc_stat(5)).
fn parse_machine(text: &str) -> Option<Machine> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guest times are contained in user and nice.
    let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|t| t.parse().ok()).collect();
    let idle = ticks.get(3)?.checked_add(*ticks.get(4)?)?;
    let total = ticks.iter().try_fold(0u64, |sum, t| sum.checked_add(*t))?;
    Some(Machine { busy: total - idle, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_times_are_found_behind_any_name() {
        let text = "7 (a ) b( c) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 4 0 100 1000 10";
        assert_eq!(parse_process(text), Some(4_000_000_000));
        let end = text.find(" 150").unwrap();
        assert!((0..=end).all(|len| parse_process(&text[..len]).is_none()));
    }

    #[test]
    fn idle_and_waiting_processors_are_not_busy() {
        let then = parse_machine("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 1 1 1").unwrap();
        let now = parse_machine("cpu  60 0 10 100 30 0 0 0 0 0\n").unwrap();
        assert_eq!(now.busy_since(then), Some(500));
        assert_eq!(then.busy_since(then), None);
        assert_eq!(parse_machine("intr 5"), None);
        assert_eq!(parse_machine("cpu  1 2 3"), None);
    }

    #[test]
    fn this_thread_uses_processor_time() {
        let before = Snapshot::take(Server { pid: Some(std::process::id()) });
        let mut sum = 0u64;
        while thread_ns().unwrap() < before.thread_ns.unwrap() + 3_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        let cpu = Snapshot::take(Server { pid: Some(std::process::id()) }).since(&before);
        assert!(cpu.client_ns.unwrap() >= 3_000_000 && cpu.server_ns.is_some());
    }
}
