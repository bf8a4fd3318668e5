//! The six workloads that every layer is measured with, and the places their requests go to. Pure.

use crate::base::prng::Prng;
use crate::base::units::{ByteLen, Span};
use serde::Serialize;

/// One kind of load. The same six run against a drive, the network and the volume, so that they compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    SequentialRead,
    SequentialWrite,
    RandomRead,
    RandomReadDeep,
    RandomWrite,
    RandomWriteDeep,
}

/// What a workload is judged by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    MegabytesPerSecond,
    RequestsPerSecond,
}

impl Workload {
    pub const ALL: [Workload; 6] = [
        Workload::SequentialRead,
        Workload::SequentialWrite,
        Workload::RandomRead,
        Workload::RandomReadDeep,
        Workload::RandomWrite,
        Workload::RandomWriteDeep,
    ];

    /// What people read in tables.
    pub fn title(self) -> &'static str {
        match self {
            Workload::SequentialRead => "sequential read",
            Workload::SequentialWrite => "sequential write",
            Workload::RandomRead => "random read 4k, depth 1",
            Workload::RandomReadDeep => "random read 4k, depth 32",
            Workload::RandomWrite => "random write 4k, depth 1",
            Workload::RandomWriteDeep => "random write 4k, depth 32",
        }
    }

    pub fn is_write(self) -> bool {
        match self {
            Workload::SequentialWrite | Workload::RandomWrite | Workload::RandomWriteDeep => true,
            Workload::SequentialRead | Workload::RandomRead | Workload::RandomReadDeep => false,
        }
    }

    pub fn is_sequential(self) -> bool {
        match self {
            Workload::SequentialRead | Workload::SequentialWrite => true,
            Workload::RandomRead
            | Workload::RandomReadDeep
            | Workload::RandomWrite
            | Workload::RandomWriteDeep => false,
        }
    }

    /// The size of one request.
    pub fn request(self) -> ByteLen {
        if self.is_sequential() { ByteLen(1 << 20) } else { ByteLen(4096) }
    }

    /// Requests in flight.
    pub fn depth(self) -> usize {
        match self {
            Workload::SequentialRead | Workload::SequentialWrite => 4,
            Workload::RandomRead | Workload::RandomWrite => 1,
            Workload::RandomReadDeep | Workload::RandomWriteDeep => 32,
        }
    }

    pub fn unit(self) -> Unit {
        if self.is_sequential() { Unit::MegabytesPerSecond } else { Unit::RequestsPerSecond }
    }
}

/// Where the next request of a run goes.
pub struct Places {
    region: Span,
    request: ByteLen,
    pattern: Pattern,
}

enum Pattern {
    Sequential { next: u64 },
    Random { prng: Prng },
}

impl Places {
    /// Places for a workload within a region, or None where the region has no room for one request.
    pub fn new(workload: Workload, region: Span, prng: Prng) -> Option<Places> {
        let request = workload.request();
        let pattern = match workload.is_sequential() {
            true => Pattern::Sequential { next: 0 },
            false => Pattern::Random { prng },
        };
        (region.len() >= request).then_some(Places { region, request, pattern })
    }

    /// The span of the next request; sequential ones start again at the region's end.
    pub fn take(&mut self) -> Span {
        let slots = self.region.len().0 / self.request.0;
        let slot = match &mut self.pattern {
            Pattern::Sequential { next } => {
                let slot = *next;
                *next = (slot + 1) % slots;
                slot
            }
            Pattern::Random { prng } => prng.below(slots),
        };
        Span::at(self.region.offset().0 + slot * self.request.0, self.request.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_places_follow_each_other_and_wrap() {
        let mut places =
            Places::new(Workload::SequentialRead, Span::at(4096, (2 << 20) + 5), Prng::from_seed(1)).unwrap();
        let offsets: Vec<u64> = (0..3).map(|_| places.take().offset().0).collect();
        assert_eq!(offsets, [4096, 4096 + (1 << 20), 4096]);
    }

    #[test]
    fn random_places_stay_in_the_region_and_reach_all_of_it() {
        let region = Span::at(1 << 20, 10 * 4096 + 100);
        let mut places = Places::new(Workload::RandomWriteDeep, region, Prng::from_seed(1)).unwrap();
        let seen: std::collections::BTreeSet<u64> = (0..500).map(|_| places.take().offset().0).collect();
        assert_eq!(seen.len(), 10);
        assert!(
            seen.iter().all(|at| *at >= 1 << 20 && at + 4096 <= region.end().0 && at.is_multiple_of(4096))
        );
    }

    #[test]
    fn a_region_smaller_than_a_request_has_no_places() {
        let region = Span::at(0, 4096);
        assert!(Places::new(Workload::SequentialRead, region, Prng::from_seed(1)).is_none());
        assert!(Places::new(Workload::RandomRead, region, Prng::from_seed(1)).is_some());
    }
}
