//! What travels: the layout of messages, the header that finds out who disagrees, and the merge of several to one.

use super::error::ExchangeError;
use crate::{ChannelGradientSums, ChannelMoments, Convention, Error, Momentum, Plan, Segmentation};

/// Of this layout. Not 0, so that a message that never came is told from one that did.
const VERSION: f32 = 1.0;
const HEADER: usize = 8;
/// Whole numbers below it are exact in an `f32`.
const MOST_EXACT: f32 = 16_777_216.0;
/// Version, whether the rank has given up, its number for the exchange in two halves, and the fingerprints.
pub(super) const GREETING: usize = 4 + 3 * SUBJECTS.len();

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Moments,
    GradientSums,
}

impl Kind {
    /// Bytes of a record on the device.
    pub(super) const fn record(self) -> usize {
        match self {
            Self::Moments => size_of::<ChannelMoments>(),
            Self::GradientSums => size_of::<ChannelGradientSums>(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Item {
    kind: Kind,
    segmentation: Segmentation,
}

impl Item {
    const fn instances(&self) -> usize {
        self.segmentation.instances() as usize
    }

    const fn segments(&self) -> usize {
        self.segmentation.segments() as usize
    }

    /// Values in a message.
    const fn length(&self) -> usize {
        match self.kind {
            Kind::Moments => 2 * self.segments() + 3 * self.instances(),
            Kind::GradientSums => 2 * self.instances(),
        }
    }
}

/// What stands where in the messages of an exchange, and what several of them come to.
///
/// A message is a header of eight values and then the items, one after the other. Every value is an `f32`, and those that count
/// something are whole numbers below 2^24, so that a sum with zeros leaves them as they are:
///
/// | | values |
/// |---|---|
/// | header | version, ranks merged in this message, fault, rank of the fault, step modulo 2^16, fingerprint in three times 16 bits |
/// | moments | of each segment: count / 2^16 and count mod 2^16; of each instance: pivot, offset, M2 |
/// | gradient sums | of each instance: Σh, Σh·x̂ |
///
/// Without segments that is `3·C + 2` values a layer in forward and `2·C` in backward. The mean keeps its two parts, as in
/// [`ChannelMoments`], so that one of a million deviations loses nothing on the way.
#[derive(Clone, Debug)]
pub struct MessageLayout {
    items: Vec<Item>,
    length: usize,
    /// Of what [`SUBJECTS`] names.
    fingerprints: [u64; SUBJECTS.len()],
    /// Of the exchanges that the ranks made a pair of when they greeted each other.
    pairing: u64,
}

/// What [`ExchangeError::Disagreement`] is about, in the order of the fingerprints.
const SUBJECTS: [&str; 4] = [
    "what is exchanged",
    "channels or segments",
    "conventions (epsilon, momentum, policies, activation)",
    "the name of the exchange",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    GivenUp = 1,
    Missing,
    Disagreement,
    OutOfStep,
}

/// The first eight values of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Header {
    ranks: usize,
    fault: Option<(Fault, usize)>,
    step: u16,
    fingerprint: [u16; 3],
}

impl Header {
    fn write(self, message: &mut [f32]) {
        let (fault, rank) = self.fault.map_or((0, 0), |(fault, rank)| (fault as u8, rank));
        message[..5].copy_from_slice(&[
            VERSION,
            self.ranks as f32,
            f32::from(fault),
            rank as f32,
            f32::from(self.step),
        ]);
        message[5..HEADER].copy_from_slice(&self.fingerprint.map(f32::from));
    }

    /// None of what is no message.
    fn read(message: &[f32]) -> Option<Self> {
        let whole = |value: f32| (value >= 0.0 && value.fract() == 0.0 && value < MOST_EXACT).then_some(value as usize);
        if !is_ours(message) {
            return None;
        }
        let short = |value: f32| whole(value).and_then(|value| u16::try_from(value).ok());
        let rank = whole(message[3])?;
        let fault = match whole(message[2])? {
            0 => None,
            1 => Some((Fault::GivenUp, rank)),
            2 => Some((Fault::Missing, rank)),
            3 => Some((Fault::Disagreement, rank)),
            4 => Some((Fault::OutOfStep, rank)),
            _ => return None,
        };
        Some(Self {
            ranks: whole(message[1])?.max(1),
            fault,
            step: short(message[4])?,
            fingerprint: [short(message[5])?, short(message[6])?, short(message[7])?],
        })
    }
}

fn is_ours(message: &[f32]) -> bool {
    message[0].to_bits() == VERSION.to_bits()
}

/// FNV-1a, 64 bits.
#[derive(Clone, Copy, Debug)]
struct Fingerprint(u64);

impl Fingerprint {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, value: u64) {
        for byte in value.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// 48 of 64 bits, in parts that an `f32` holds.
fn in_parts(hash: u64) -> [u16; 3] {
    let folded = hash ^ (hash >> 48);
    [folded as u16, (folded >> 16) as u16, (folded >> 32) as u16]
}

fn add_convention(fingerprint: &mut Fingerprint, convention: &Convention) {
    let (kind, momentum) = match convention.momentum {
        Momentum::WeightOfNew(weight) => (0, weight),
        // The same thing said otherwise.
        Momentum::WeightOfOld(weight) => (0, 1.0 - weight),
        Momentum::CumulativeAverage => (1, 0.0),
    };
    fingerprint.add(u64::from((convention.epsilon as f32).to_bits()));
    fingerprint.add(kind);
    fingerprint.add(u64::from((momentum as f32).to_bits()));
    for choice in [
        convention.running_variance as u64,
        convention.one_sample as u64,
        convention.non_finite as u64,
        convention.segment_running as u64,
    ] {
        fingerprint.add(choice);
    }
}

impl MessageLayout {
    pub(super) fn new<'a>(items: impl IntoIterator<Item = (Kind, &'a Plan)>) -> Self {
        let [mut what, mut channels, mut conventions] = [Fingerprint::new(); 3];
        let mut all = Vec::new();
        for (kind, plan) in items {
            let segmentation = plan.segmentation();
            all.push(Item { kind, segmentation });
            what.add(kind as u64);
            let descriptor = plan.descriptor();
            for value in [
                u64::from(descriptor.channels),
                segmentation.instances(),
                // Where they stand: beside the channels or one after the other.
                segmentation.segment_of(segmentation.instances() - 1),
                segmentation.instance(segmentation.segments().min(2) - 1, 0),
            ] {
                channels.add(value);
            }
            add_convention(&mut conventions, &descriptor.convention);
            // As it is printed, which says kind and slope.
            for byte in format!("{:?}", descriptor.activation).bytes() {
                conventions.add(u64::from(byte));
            }
        }
        what.add(all.len() as u64);
        let length = HEADER + all.iter().map(Item::length).sum::<usize>();
        Self { items: all, length, fingerprints: [what.0, channels.0, conventions.0, 0], pairing: 0 }
    }

    pub(super) fn set_name(&mut self, name: &str) {
        let mut fingerprint = Fingerprint::new();
        name.bytes().for_each(|byte| fingerprint.add(u64::from(byte)));
        self.fingerprints[3] = fingerprint.0;
    }

    /// Values in a message.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    fn fingerprint(&self) -> [u16; 3] {
        let mut all = Fingerprint::new();
        self.fingerprints.iter().chain([&self.pairing]).for_each(|&part| all.add(part));
        in_parts(all.0)
    }

    /// What ranks tell each other before their first message, since messages of unequal length cannot be exchanged. `number`
    /// is another one for every exchange of a rank.
    pub(super) fn greeting(&self, number: u32, given_up: bool) -> [f32; GREETING] {
        let mut greeting = [0.0; GREETING];
        greeting[0] = VERSION;
        greeting[1] = if given_up { 1.0 } else { 0.0 };
        greeting[2..4].copy_from_slice(&[(number >> 16) as f32, (number & 0xffff) as f32]);
        for (to, hash) in greeting[4..].chunks_exact_mut(3).zip(self.fingerprints) {
            to.copy_from_slice(&in_parts(hash).map(f32::from));
        }
        greeting
    }

    /// Finds the first rank that is not as rank 0. If all are, their exchanges belong together from now on: no other one of a rank
    /// has messages that pass for this one's, even if it is of the same layers.
    pub(super) fn pair(&mut self, greetings: &[f32]) -> Result<(), ExchangeError> {
        let all = || greetings.chunks_exact(GREETING).enumerate();
        if let Some((rank, _)) = all().find(|(_, greeting)| !is_ours(greeting)) {
            return Err(ExchangeError::Missing { rank });
        }
        if let Some((rank, _)) = all().find(|(_, greeting)| greeting[1] != 0.0) {
            return Err(ExchangeError::GivenUp { rank });
        }
        for (index, what) in SUBJECTS.into_iter().enumerate() {
            let at = 4 + 3 * index..7 + 3 * index;
            if let Some((rank, _)) = all().find(|(_, greeting)| greeting[at.clone()] != greetings[at.clone()]) {
                return Err(ExchangeError::Disagreement { rank, what });
            }
        }
        let mut pairing = Fingerprint::new();
        all().flat_map(|(_, greeting)| &greeting[2..4]).for_each(|half| pairing.add(u64::from(half.to_bits())));
        self.pairing = pairing.0;
        Ok(())
    }

    /// The message of one rank from its records, as the device holds them.
    pub(super) fn write(&self, records: &[u8], step: u32, message: &mut [f32]) -> Result<(), ExchangeError> {
        self.address(step, message);
        let (mut records, mut values) = (records, &mut message[HEADER..]);
        for (index, item) in self.items.iter().enumerate() {
            let (own, rest) = records.split_at(item.instances() * item.kind.record());
            let (into, after) = values.split_at_mut(item.length());
            (records, values) = (rest, after);
            match item.kind {
                Kind::Moments => write_moments(index, item, own, into)?,
                Kind::GradientSums => into
                    .iter_mut()
                    .zip(own.chunks_exact(4))
                    .for_each(|(to, from)| *to = bytemuck::pod_read_unaligned(from)),
            }
        }
        Ok(())
    }

    /// The message of a rank that has given up.
    pub(super) fn write_failure(&self, step: u32, message: &mut [f32]) {
        message.fill(0.0);
        self.write_header(step, Some((Fault::GivenUp, 0)), message);
    }

    /// Says of which exchange and step a message is.
    pub(super) fn address(&self, step: u32, message: &mut [f32]) {
        self.write_header(step, None, message);
    }

    fn write_header(&self, step: u32, fault: Option<(Fault, usize)>, message: &mut [f32]) {
        Header { ranks: 1, fault, step: step as u16, fingerprint: self.fingerprint() }.write(message);
    }

    /// What `messages`, one after the other in order of rank, come to: a message that says of all their ranks what each says of
    /// its own. It may be merged with others in turn, as a tree of ranks does.
    ///
    /// Sums are taken in f64, in the order given, and rounded once: the same messages give the same bits everywhere. So does the
    /// same tree.
    ///
    /// # Errors
    /// [`ExchangeError::WrongLength`]. What else may be wrong with a message becomes a part of the merged one, and an error of
    /// whoever delivers it.
    pub fn merge(&self, messages: &[f32], merged: &mut [f32]) -> Result<(), ExchangeError> {
        if messages.is_empty() || !messages.len().is_multiple_of(self.length) {
            return Err(ExchangeError::WrongLength { expected: self.length, actual: messages.len() });
        }
        if merged.len() != self.length {
            return Err(ExchangeError::WrongLength { expected: self.length, actual: merged.len() });
        }
        let header = self.merge_headers(messages);
        header.write(merged);
        if header.fault.is_some() {
            merged[HEADER..].fill(0.0);
            return Ok(());
        }
        let mut at = HEADER;
        for item in &self.items {
            let parts = || messages.chunks_exact(self.length).map(|message| &message[at..at + item.length()]);
            let into = &mut merged[at..at + item.length()];
            match item.kind {
                Kind::Moments => merge_moments(item, parts, into),
                Kind::GradientSums => {
                    for (index, to) in into.iter_mut().enumerate() {
                        *to = parts().map(|part| f64::from(part[index])).sum::<f64>() as f32;
                    }
                }
            }
            at += item.length();
        }
        Ok(())
    }

    /// Whether a message counts as one of this layout does; whatever else was gathered must not pass for counts.
    fn counts_are_whole(&self, message: &[f32]) -> bool {
        let mut at = HEADER;
        self.items.iter().all(|item| {
            let values = &message[at..at + item.length()];
            at += item.length();
            let halves = if item.kind == Kind::Moments { 2 * item.segments() } else { 0 };
            let [high, low] = [MOST_EXACT, 65_536.0];
            let below = |value: f32, end: f32| value >= 0.0 && value < end && value.fract() == 0.0;
            values[..halves].chunks_exact(2).all(|count| below(count[0], high) && below(count[1], low))
        })
    }

    /// The first fault in order of rank.
    fn merge_headers(&self, messages: &[f32]) -> Header {
        let own = Header { ranks: 0, fault: None, step: 0, fingerprint: self.fingerprint() };
        let mut first = None;
        let mut merged = own;
        for message in messages.chunks_exact(self.length) {
            let rank = merged.ranks;
            let fault = match Header::read(message).filter(|_| self.counts_are_whole(message)) {
                None => {
                    merged.ranks = merged.ranks.saturating_add(1);
                    Some((Fault::Missing, rank))
                }
                Some(header) => {
                    merged.ranks = merged.ranks.saturating_add(header.ranks);
                    let first = *first.get_or_insert(header);
                    if let Some((fault, within)) = header.fault {
                        Some((fault, rank.saturating_add(within)))
                    } else if header.fingerprint != first.fingerprint {
                        Some((Fault::Disagreement, rank))
                    } else if header.step != first.step {
                        Some((Fault::OutOfStep, rank))
                    } else {
                        None
                    }
                }
            };
            merged.fault = merged.fault.or(fault);
        }
        let first = first.unwrap_or(own);
        Header { step: first.step, fingerprint: first.fingerprint, ..merged }
    }

    /// The records of a merged message as the device takes them; `ranks` is how many it must speak for, where that is known.
    pub(super) fn read(
        &self,
        merged: &[f32],
        step: u32,
        ranks: Option<usize>,
        records: &mut Vec<u8>,
    ) -> Result<(), ExchangeError> {
        let header = Header::read(merged).ok_or(ExchangeError::Missing { rank: 0 })?;
        match header.fault {
            Some((Fault::GivenUp, rank)) => return Err(ExchangeError::GivenUp { rank }),
            Some((Fault::Missing, rank)) => return Err(ExchangeError::Missing { rank }),
            Some((Fault::OutOfStep, rank)) => return Err(ExchangeError::OutOfStep { rank }),
            Some((Fault::Disagreement, rank)) => {
                return Err(ExchangeError::Disagreement { rank, what: "which exchange this is" });
            }
            None => {}
        }
        if let Some(expected) = ranks.filter(|&expected| expected != header.ranks) {
            return Err(ExchangeError::WrongRanks { expected, actual: header.ranks });
        }
        if header.fingerprint != self.fingerprint() {
            return Err(ExchangeError::Disagreement { rank: 0, what: "which exchange this is" });
        }
        if header.step != step as u16 {
            return Err(ExchangeError::OutOfStep { rank: 0 });
        }
        records.clear();
        let mut values = &merged[HEADER..];
        for item in &self.items {
            let (own, rest) = values.split_at(item.length());
            values = rest;
            match item.kind {
                Kind::Moments => {
                    let (counts, moments) = own.split_at(2 * item.segments());
                    for (instance, values) in moments.chunks_exact(3).enumerate() {
                        let count = count_at(counts, segment_of(item, instance));
                        let count = u32::try_from(count).map_err(|_| Error::TooManyForMoments { count })?;
                        let record = ChannelMoments { count, pivot: values[0], offset: values[1], m2: values[2] };
                        records.extend_from_slice(bytemuck::bytes_of(&record));
                    }
                }
                Kind::GradientSums => records.extend_from_slice(bytemuck::cast_slice(own)),
            }
        }
        Ok(())
    }
}

const fn segment_of(item: &Item, instance: usize) -> usize {
    item.segmentation.segment_of(instance as u64) as usize
}

/// A count in two halves, each exact in an `f32`: up to 2^40.
fn count_at(counts: &[f32], segment: usize) -> u64 {
    counts[2 * segment] as u64 * 65536 + counts[2 * segment + 1] as u64
}

fn write_count(counts: &mut [f32], segment: usize, count: u64) {
    counts[2 * segment] = (count >> 16) as f32;
    counts[2 * segment + 1] = (count & 0xffff) as f32;
}

fn write_moments(index: usize, item: &Item, records: &[u8], into: &mut [f32]) -> Result<(), ExchangeError> {
    let (counts, moments) = into.split_at_mut(2 * item.segments());
    let record = |instance: usize| -> ChannelMoments {
        bytemuck::pod_read_unaligned(&records[instance * Kind::Moments.record()..][..Kind::Moments.record()])
    };
    for segment in 0..item.segments() {
        let first = item.segmentation.instance(segment as u64, 0) as usize;
        write_count(counts, segment, record(first).count.into());
    }
    for (instance, values) in moments.chunks_exact_mut(3).enumerate() {
        let ChannelMoments { count, pivot, offset, m2 } = record(instance);
        if u64::from(count) != count_at(counts, segment_of(item, instance)) {
            return Err(ExchangeError::MixedCounts { item: index, instance });
        }
        // What an empty part holds means nothing, and must not travel as a NaN.
        values.copy_from_slice(&if count == 0 { [0.0; 3] } else { [pivot, offset, m2] });
    }
    Ok(())
}

/// As [`crate::reference::BatchNorm::merge_moments`].
fn merge_moments<'a, I: Iterator<Item = &'a [f32]>>(item: &Item, parts: impl Fn() -> I, into: &mut [f32]) {
    let (counts, moments) = into.split_at_mut(2 * item.segments());
    for segment in 0..item.segments() {
        write_count(counts, segment, parts().map(|part| count_at(part, segment)).sum());
    }
    for (instance, values) in moments.chunks_exact_mut(3).enumerate() {
        let segment = segment_of(item, instance);
        let total = count_at(counts, segment);
        if total == 0 {
            values.fill(0.0);
            continue;
        }
        let own = || {
            parts().filter_map(|part| {
                let count = count_at(part, segment) as f64;
                let at = 2 * item.segments() + 3 * instance;
                (count > 0.0).then(|| (count, f64::from(part[at]) + f64::from(part[at + 1]), f64::from(part[at + 2])))
            })
        };
        let total = total as f64;
        let mean = own().map(|(count, mean, _)| count * mean).sum::<f64>() / total;
        let m2: f64 = own().map(|(count, part, m2)| m2 + count * (part - mean).powi(2)).sum();
        let pivot = mean as f32;
        let offset = (mean - f64::from(pivot)) as f32;
        values.copy_from_slice(&[pivot, if offset.is_nan() { 0.0 } else { offset }, m2 as f32]);
    }
}
