//! The report for programs: schema `drystone.bench/1`, integers for bytes, nanoseconds and rates. Pure.

use super::figure::{Figure, Figures, Outcome};
use super::peer::{Contest, Peer, Ratio};
use super::report::Report;
use super::verdict::{Bottleneck, Verdict};
use super::workload::Workload;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The name of the format; a change that is not an addition gets another number.
pub const SCHEMA: &str = "drystone.bench/1";

/// The whole report as one JSON object.
pub fn render(report: &Report) -> Value {
    let measured = &report.measured;
    let facts = &measured.facts;
    let drives = measured.drives.iter().map(|drive| {
        json!({
            "name": drive.name,
            "size_bytes": drive.size_bytes,
            "rotational": drive.rotational,
            "workloads": figures(&drive.figures),
            "notes": drive.notes,
        })
    });
    let against = measured.peers.iter().zip(&report.peer_verdicts).map(|(p, verdicts)| peer(p, verdicts));
    json!({
        "schema": SCHEMA,
        "target": facts.target,
        "began_ns": facts.began_ns,
        "kernel": facts.kernel,
        "connections": facts.connections,
        "run_ns": facts.run_ns,
        "scratch_bytes": facts.scratch_bytes,
        "copies": measured.copies,
        "link": measured.link,
        "link_payload_limit_bytes_per_second": measured.link.payload_limit().map(rounded),
        "drives": drives.collect::<Vec<Value>>(),
        "drives_together": measured.together.as_ref().map(figures),
        "network": figures(&measured.network),
        "end_to_end": figures(&measured.end_to_end),
        "over_nvme": measured.over_nvme.as_ref().map(figures),
        "verdicts": report.verdicts.values().map(verdict).collect::<Vec<Value>>(),
        "against": against.collect::<Vec<Value>>(),
        "notes": report.remarks(),
    })
}

/// Another server: its figures as for our own layers, and ours divided by its own, in thousandths.
fn peer(peer: &Peer, verdicts: &BTreeMap<Workload, Verdict>) -> Value {
    json!({
        "target": peer.name,
        "link": peer.link,
        "connections": peer.connections,
        "area_bytes": peer.used.0,
        "turn_ns": peer.turn_ns,
        "rounds": super::peer::ROUNDS,
        "workloads": figures(&peer.figures),
        "ratios": peer.contests.iter().map(contest).collect::<Vec<Value>>(),
        "verdicts": verdicts.values().map(verdict).collect::<Vec<Value>>(),
        "notes": peer.notes,
    })
}

fn contest((workload, contest): (&Workload, &Contest)) -> Value {
    let permille = |value: f64| rounded(value * 1000.0);
    let ratio = |ratio: Ratio| {
        let (median, least, most) = (permille(ratio.median), permille(ratio.least), permille(ratio.most));
        json!({ "median_permille": median, "least_permille": least, "most_permille": most })
    };
    json!({
        "workload": workload,
        "rate": ratio(contest.rate),
        "p50": contest.p50.map(ratio),
        "p99": contest.p99.map(ratio),
        "p999": contest.p999.map(ratio),
        "server_cpu_per_request_permille": contest.server_cpu.map(permille),
    })
}

fn rounded(value: f64) -> u64 {
    // Saturates, and not-a-number becomes 0: both cannot be.
    value.round() as u64
}

fn figures(figures: &Figures) -> Value {
    let cell = |(workload, outcome): (&Workload, &Outcome)| {
        let mut cell = match outcome {
            Outcome::Measured(measured) => figure(measured),
            Outcome::NotMeasured { reason } => json!({ "outcome": "not_measured", "reason": reason }),
            Outcome::Failed { reason } => json!({ "outcome": "failed", "reason": reason }),
        };
        cell["workload"] = json!(workload);
        cell
    };
    Value::Array(figures.outcomes.iter().map(cell).collect())
}

fn figure(figure: &Figure) -> Value {
    let curve = figure.curve.iter().map(|p| json!({ "per_100k": p.per_100k, "latency_ns": p.latency_ns }));
    json!({
        "outcome": "measured",
        "requests": figure.requests,
        "bytes": figure.bytes,
        "elapsed_ns": figure.elapsed_ns,
        "bytes_per_second": rounded(figure.bytes_per_second()),
        "requests_per_second": rounded(figure.requests_per_second()),
        "p50_ns": figure.p50_ns,
        "p99_ns": figure.p99_ns,
        "p999_ns": figure.p999_ns,
        "max_ns": figure.max_ns,
        "latency_curve": curve.collect::<Vec<Value>>(),
        "client_cpu_ns": figure.cpu.client_ns,
        "server_cpu_ns": figure.cpu.server_ns,
        "machine_busy_permille": figure.cpu.machine_permille,
    })
}

fn verdict(verdict: &Verdict) -> Value {
    let (kind, facts) = bottleneck(&verdict.bottleneck);
    json!({
        "workload": verdict.workload,
        "unit": if verdict.workload.is_sequential() { "bytes_per_second" } else { "requests_per_second" },
        "drives_limit": verdict.drives_limit.map(rounded),
        "network_limit": verdict.network_limit.map(rounded),
        "got": rounded(verdict.got),
        "bottleneck": kind,
        "facts": facts,
        "sentence": verdict.bottleneck.sentence(),
    })
}

fn bottleneck(bottleneck: &Bottleneck) -> (&'static str, Map<String, Value>) {
    let permille = |share: f64| json!(rounded(share * 1000.0));
    let one = |name: &str, value: Value| Map::from_iter([(name.to_owned(), value)]);
    match bottleneck {
        Bottleneck::Network { share } => ("network", one("share_permille", permille(*share))),
        Bottleneck::Drive { name, share } => {
            let mut facts = one("share_permille", permille(*share));
            facts.insert("drive".to_owned(), json!(name));
            ("drive", facts)
        }
        Bottleneck::Drives { share } => ("drives", one("share_permille", permille(*share))),
        Bottleneck::Processor { busy } => ("processor", one("busy_permille", permille(*busy))),
        Bottleneck::LoadGenerator { busy } => ("load_generator", one("busy_permille", permille(*busy))),
        Bottleneck::Waiting { drives_ns, network_ns, rest_ns } => {
            let parts = [("drives_ns", drives_ns), ("network_ns", network_ns), ("server_ns", rest_ns)];
            ("waiting", parts.into_iter().map(|(name, ns)| (name.to_owned(), json!(ns))).collect())
        }
        Bottleneck::Open { network, drives } => {
            let parts = [("network_permille", network), ("drives_permille", drives)];
            let facts = parts.into_iter().map(|(name, share)| (name.to_owned(), json!(share.map(permille))));
            ("none_reached", facts.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::sample;
    use super::*;

    #[test]
    fn the_schema_is_named_and_every_number_is_an_integer() {
        let value = render(&sample::report_with_peers());
        assert_eq!(value["schema"], "drystone.bench/1");
        assert_eq!(value["against"][0]["ratios"][0]["rate"]["median_permille"], 1501);
        assert_eq!(value["against"][1]["workloads"][0]["reason"], "cannot connect");
        assert_eq!(value["verdicts"][0]["bottleneck"], "network");
        assert_eq!(value["verdicts"][1]["facts"]["drive"], "sda");
        assert_eq!(value["drives"][0]["workloads"].as_array().unwrap().len(), 6);
        assert_eq!(value["link_payload_limit_bytes_per_second"], 117_685_306);
        fn check(value: &Value) {
            match value {
                Value::Number(n) => assert!(n.is_u64(), "{n}"),
                Value::Array(items) => items.iter().for_each(check),
                Value::Object(items) => items.values().for_each(check),
                Value::Null | Value::Bool(_) | Value::String(_) => {}
            }
        }
        check(&value);
    }

    #[test]
    fn what_was_not_measured_says_why() {
        let mut report = sample::report();
        report.measured.network = Figures::not_measured("no bench export");
        let value = render(&Report::new(report.measured));
        assert_eq!(value["network"][0]["outcome"], "not_measured");
        assert_eq!(value["network"][0]["reason"], "no bench export");
        assert_eq!(value["network"][0]["workload"], "sequential_read");
    }
}
