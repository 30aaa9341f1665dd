//! The policy for space: when to compact, when to create a segment in advance, who may begin one, and when a
//! new job is refused. Facts in, decisions out: no lock, no clock, no I/O.
//!
//! It has two aims:
//! - The journal takes at most three times the live bytes and four segments. A writer that is faster than
//!   compaction waits, because no segment is created for it.
//! - On a full disk the end of every job can still be written. Ready segments are reserved for that; new jobs
//!   leave them alone, and so does everything else leave what compaction needs.

/// What must be kept, as its owner counts it. Everything else in the journal is dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Jobs that exist.
    pub jobs: u64,
    /// What the ends of jobs take beyond those of plain jobs: of those in a batch, whose counts are written with
    /// them, and of those that are kept, which end twice.
    pub extra_end_bytes: u64,
    /// The sum of [`job_bytes`](super::job_bytes) of all jobs, of [`pause_bytes`](super::pause_bytes) of
    /// all paused queues, and of [`batch_bytes`](super::batch_bytes) of all batches.
    pub bytes: u64,
}

/// Whether a new job may be appended, judged without waiting: see [`Journal::room`](super::Journal::room).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Yes,
    /// The disk is full, and the rest is reserved for the ends of existing jobs.
    No,
    /// More than a segment's worth is not written yet: write first, with
    /// [`Journal::has_room`](super::Journal::has_room).
    MustWrite,
}

/// Segments that are reserved for what is appended beside jobs until compaction has gone round once on a full
/// disk.
const RESERVED_SEGMENTS: u64 = 3;

/// Reserved for the end of each job: its record and its share of a batch's header. This is enough: if the
/// ends of jobs take more, compaction makes room, because each of them makes more bytes dead than it takes.
const END_BYTES: u64 = 16;

/// What is known about space at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// The size of a new segment.
    pub(super) segment_bytes: u64,
    /// What must be kept.
    pub(super) live: Live,
    /// The files of all segments in use, including one that is about to be used.
    pub(super) used_bytes: u64,
    /// How many these are.
    pub(super) segments: u64,
    /// Bytes that were appended dead or have died since the journal was opened.
    pub(super) died: u64,
    /// Whether the last attempt to create a segment found the disk full.
    pub(super) disk_full: bool,
    /// Whether a write waits for a segment although compaction expects no gain: then it is tried.
    pub(super) starved: bool,
    /// Whether there is an owner who can write live jobs again. Without one there is no compaction.
    pub(super) has_keeper: bool,
    /// Whether compaction waits for its records to be written.
    pub(super) compaction_waits: bool,
    /// What the last round of compaction left.
    pub(super) last_round: Round,
}

/// What is remembered of the last round of compaction, in which every segment was emptied once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// The next round gains nothing until [`Facts::died`] is this high. Zero: it may gain something now.
    pub(super) futile_until: u64,
    /// The dead bytes that it could not remove, if the disk was full.
    pub(super) dead_left: u64,
}

/// Segments that are ready to be used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready {
    /// How many.
    pub(super) count: usize,
    /// The bytes of their files.
    pub(super) bytes: u64,
}

/// What decides whether one more segment is created while the journal is too large.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    /// A write waits for a segment, and none is ready.
    pub(super) missed: bool,
    /// Segments removed since one was last created, while the journal exceeded its limit.
    pub(super) removed: u32,
}

impl Facts {
    /// Bytes of segments in use that are not live.
    pub(super) fn dead(&self) -> u64 {
        self.used_bytes.saturating_sub(self.live.bytes)
    }

    /// The size of all segments, in use and ready, above which writers wait. It is what docs/journal.md
    /// promises, less the segment that compaction may need.
    fn bytes_max(&self) -> u64 {
        self.live.bytes * 3 + self.segment_bytes * 3
    }

    fn exceeds_limit(&self, ready: Ready) -> bool {
        self.used_bytes + ready.bytes > self.bytes_max()
    }

    fn fits_one_more(&self, ready: Ready) -> bool {
        self.used_bytes + ready.bytes + self.segment_bytes <= self.bytes_max()
    }

    /// Whether a segment could be emptied: the newest never is.
    pub(super) fn can_compact(&self) -> bool {
        self.segments > 1 && self.has_keeper
    }

    /// Whether the journal is larger than it should be, even if the disk has room.
    pub(super) fn is_too_large(&self) -> bool {
        self.can_compact() && self.used_bytes > self.live.bytes / 2 * 5 + self.segment_bytes
    }

    /// Whether the oldest segment is to be emptied: the segments exceed two and a half times the live bytes
    /// plus one segment. Compaction nearly always gets below that, because rewritten jobs take at most 1.4
    /// times their counted bytes, unless nearly all of them are tiny with huge counts, or few fit in a
    /// segment. If it did not, it waits until more has died.
    ///
    /// On a full disk more work is worth while to gain a segment: compaction runs whenever nearly one more
    /// segment is dead than the last round left, and always while a write is stuck.
    pub(super) fn needs_compaction(&self) -> bool {
        let is_futile = self.died < self.last_round.futile_until && !self.starved;
        let gains_room = self.starved || self.dead() > self.last_round.dead_left + self.segment_bytes / 4 * 3;
        (self.is_too_large() && !is_futile) || (self.disk_full && self.can_compact() && gains_room)
    }

    /// What to remember of a round that ends now and began when `died_before` bytes had died.
    pub(super) fn round_ended(&self, died_before: u64) -> Round {
        let died_meanwhile = self.died - died_before;
        let worth_a_round = self.segment_bytes / 4;
        Round {
            // If more has died meanwhile, the next round gains that.
            futile_until: if died_meanwhile < worth_a_round { self.died + worth_a_round } else { 0 },
            dead_left: if self.disk_full { self.dead().saturating_sub(died_meanwhile) } else { 0 },
        }
    }

    /// How many segments compaction may need to empty one: one if everything live leaves room in it,
    /// otherwise two.
    pub(super) fn kept_for_compaction(&self) -> usize {
        if self.live.bytes / 3 * 4 <= self.segment_bytes { 1 } else { 2 }
    }

    /// How many segments are kept ready in any case: one for the next writes, and what compaction needs.
    pub(super) fn ready_min(&self) -> usize {
        self.kept_for_compaction() + 1
    }

    /// Whether a ready segment may be used now.
    ///
    /// Compaction always may, because it makes room. Everything else leaves compaction what it needs for one
    /// segment. It also waits until all wanted segments are ready: when the disk then turns out to be full,
    /// the reserve exists.
    pub(super) fn may_take(&self, ready: Ready, demand: Demand) -> bool {
        if self.compaction_waits {
            return true;
        }
        if self.disk_full || self.needs_compaction() {
            return !self.can_compact() || ready.count > self.kept_for_compaction();
        }
        !self.wants_segment(ready, demand)
    }

    /// Whether one more segment is to be created: a few in any case, then the reserve, but none that would
    /// make the journal exceed its limit. Writers wait for it, so they can't outrun compaction.
    pub(super) fn wants_segment(&self, ready: Ready, demand: Demand) -> bool {
        let fits = self.fits_one_more(ready);
        if self.is_too_large() {
            // Compaction itself must go on. After a large PURGE the journal is far above its limit, and one
            // new segment for two that were removed lets both compaction and writers go on.
            let compaction_stuck = ready.count == 0 && demand.missed && self.compaction_waits;
            return ready.count < self.ready_min() && (fits || demand.removed >= 2 || compaction_stuck);
        }
        ready.count < self.ready_min() || (fits && ready.bytes < self.reserved_bytes())
    }

    /// Whether ready segments are to be removed: there are more than needed, and the journal exceeds its
    /// limit because much has died.
    pub(super) fn has_too_many(&self, ready: Ready) -> bool {
        ready.count > self.ready_min() && self.exceeds_limit(ready)
    }

    /// Whether `removed` segments count as [`Demand::removed`] after one more was removed.
    pub(super) fn removed(&self, ready: Ready, removed: u32) -> u32 {
        if self.exceeds_limit(ready) { removed + 1 } else { 0 }
    }

    /// Whether a writer must wait until compaction has removed a segment: the journal exceeds its limit after
    /// much was finished or deleted at once, or the disk is full and only what compaction needs is left. One
    /// batch is written for each segment that is removed, so room grows, and no client waits until there is
    /// plenty.
    pub(super) fn must_wait_for_compaction(&self, ready: Ready) -> bool {
        self.needs_compaction()
            && !self.compaction_waits
            && (self.exceeds_limit(ready) || (self.disk_full && ready.count <= self.kept_for_compaction()))
    }

    /// Room that a new job must leave free on a full disk.
    pub(super) fn reserved_bytes(&self) -> u64 {
        let segments = self.kept_for_compaction() as u64 + RESERVED_SEGMENTS;
        self.live.jobs * END_BYTES + self.live.extra_end_bytes + segments * self.segment_bytes
    }

    /// Room that the reason of a failure must leave free on a full disk: two segments less. Reasons stay as
    /// long as their jobs, and compaction can't remove them.
    fn reserved_bytes_from_reasons(&self) -> u64 {
        self.reserved_bytes() - (RESERVED_SEGMENTS - 1) * self.segment_bytes
    }

    /// Whether a new job of this size may be appended. `free` is asked on a full disk only.
    pub(super) fn room(&self, job_bytes: u64, free: impl FnOnce() -> u64, unwritten: u64) -> Room {
        if self.disk_full {
            return if free() >= job_bytes + self.reserved_bytes() { Room::Yes } else { Room::No };
        }
        if unwritten > self.segment_bytes { Room::MustWrite } else { Room::Yes }
    }

    /// Whether the reason of a failure may be kept. `free` is asked on a full disk only.
    pub(super) fn has_room_for_reason(&self, reason_bytes: u64, free: impl FnOnce() -> u64) -> bool {
        !self.disk_full || free() >= reason_bytes + self.reserved_bytes_from_reasons()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT_BYTES: u64 = 8 << 10;

    fn facts() -> impl Strategy<Value = (Facts, Ready, Demand)> {
        let sizes = (0..40 * SEGMENT_BYTES, 0..2000_u64, 0..60_u64, 0..SEGMENT_BYTES * 40, 0..60_usize);
        let flags = (any::<[bool; 5]>(), 0..4_u32);
        let round = (0..SEGMENT_BYTES * 40, 0..SEGMENT_BYTES * 40);
        (sizes, flags, round).prop_map(|(sizes, (flags, removed), (futile_until, dead_left))| {
            let (live_bytes, jobs, segments, died, count) = sizes;
            let [disk_full, starved, has_keeper, compaction_waits, missed] = flags;
            let facts = Facts {
                segment_bytes: SEGMENT_BYTES,
                live: Live { jobs, extra_end_bytes: 0, bytes: live_bytes },
                used_bytes: segments * SEGMENT_BYTES,
                segments,
                died,
                disk_full,
                starved,
                has_keeper,
                compaction_waits,
                last_round: Round { futile_until, dead_left },
            };
            let ready = Ready { count, bytes: count as u64 * SEGMENT_BYTES };
            (facts, ready, Demand { missed, removed })
        })
    }

    proptest! {
        #[test]
        fn compaction_is_never_held_up((facts, ready, demand) in facts()) {
            let facts = Facts { compaction_waits: true, ..facts };
            prop_assert!(facts.may_take(ready, demand));
            prop_assert!(!facts.must_wait_for_compaction(ready));
            let demand = Demand { missed: true, ..demand };
            prop_assert!(facts.wants_segment(Ready::default(), demand));
        }

        #[test]
        fn others_leave_compaction_what_it_needs((facts, ready, demand) in facts()) {
            let facts = Facts { compaction_waits: false, ..facts };
            if facts.may_take(ready, demand) && facts.can_compact() {
                let least = if facts.is_too_large() && !facts.needs_compaction() && !facts.disk_full {
                    // A futile round: nothing is being emptied, and none of them is kept back.
                    0
                } else {
                    facts.kept_for_compaction() + 1
                };
                prop_assert!(ready.count >= least);
            }
        }

        #[test]
        fn write_that_waits_for_a_segment_waits_for_something_that_happens((facts, ready, demand) in facts()) {
            let demand = Demand { missed: ready.count == 0, ..demand };
            if ready.count > 0 && facts.may_take(ready, demand) {
                return Ok(());
            }
            // Either a segment is created, or a full disk is tried again, or compaction runs; at the latest
            // once the write counts as starved.
            let starved = Facts { starved: true, ..facts };
            prop_assert!(
                facts.wants_segment(ready, demand) || facts.disk_full || starved.needs_compaction(),
                "nothing happens"
            );
        }

        #[test]
        fn segment_is_created_within_the_limit_or_because_few_are_ready((facts, ready, demand) in facts()) {
            if facts.wants_segment(ready, demand) {
                prop_assert!(ready.count < facts.ready_min() || facts.fits_one_more(ready));
                prop_assert!(!facts.has_too_many(ready), "what is created would be removed");
            }
        }

        #[test]
        fn writer_waits_for_compaction_only_while_it_runs((facts, ready, _) in facts()) {
            if facts.must_wait_for_compaction(ready) {
                prop_assert!(facts.needs_compaction() && facts.can_compact());
            }
        }

        #[test]
        fn full_disk_keeps_the_reserve_from_jobs_and_then_from_reasons(
            (facts, _, _) in facts(), bytes in 0..SEGMENT_BYTES * 50, free in 0..SEGMENT_BYTES * 50
        ) {
            let facts = Facts { disk_full: true, ..facts };
            match facts.room(bytes, || free, 0) {
                Room::Yes => {
                    prop_assert!(free - bytes >= facts.reserved_bytes());
                    prop_assert!(facts.has_room_for_reason(bytes, || free));
                    prop_assert!(facts.room(bytes / 2, || free, 0) == Room::Yes);
                }
                other => prop_assert_eq!(other, Room::No),
            }
            prop_assert!(facts.reserved_bytes() >= facts.live.jobs * END_BYTES);
        }

        #[test]
        fn round_that_gained_nothing_is_not_repeated_until_something_died((facts, ready, _) in facts()) {
            let facts = Facts { starved: false, ..facts };
            let after = Facts { last_round: facts.round_ended(facts.died), ..facts };
            prop_assert!(!after.needs_compaction());
            let more = Facts { died: after.died + SEGMENT_BYTES / 4, ..after };
            prop_assert_eq!(more.needs_compaction(), more.is_too_large());
            let _ = ready;
        }
    }
}
