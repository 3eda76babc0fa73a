//! Tensors that are too large for one binding or one dispatch, cut into windows that are not.
//!
//! A window is a run of consecutive elements that is a tensor of its own: whole parts, whole outer steps of a part, whole
//! channels of an outer step, or a piece of one row; the first of these that fits. Windows differ in nothing but their place and,
//! at the ends, their size; every instance has elements in the same number of windows.

use std::ops::Range;

use super::MAX_ELEMENTS;
use super::geometry::{Begin, Geometry, Tensor, gcd, max_window_slots, narrow, outer_elements};
use super::kernel::{Access, Family, Walk};
use super::profile::DeviceProfile;
use super::selection;
use super::strategy::{Strategies, Strategy};
use super::workspace::RECORD_SIZE;
use crate::{Error, Problem, Segmentation};

/// Smaller windows would be all overhead.
const LEAST_WINDOW_SIZE: u64 = 1 << 10;

/// What a plan may hold: enough for 2^40 elements in the smallest bindings that WebGPU allows.
const MAX_WINDOWS: u64 = 1 << 17;

/// Slots that an invocation merges in two rounds, within the loops that every driver allows.
const SLOTS_PER_POSITION: u64 = 1 << 14;

/// What one dispatch goes over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    /// As a tensor of its own.
    pub tensor: Tensor,
    /// Its first element among those of the whole tensor.
    pub first_element: u64,
    /// The first instance that it has elements of.
    pub first_instance: u64,
    /// The same for all windows with the same elements of their instances: which of them, and where it begins in an instance.
    pub cell: Cell,
    pub reduction: Geometry,
    pub map: Geometry,
    /// The first of its slots among those of its instances.
    pub slot_base: u64,
}

/// A range of every instance's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub index: u64,
    /// How far its first element lies past the instance's first.
    pub offset: u64,
    /// Its elements of an instance.
    pub count: u64,
}

/// What is bound of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub first_element: u64,
    pub elements: u64,
}

impl Window {
    /// A tensor that one dispatch can go over.
    pub(super) const fn whole(tensor: Tensor, reduction: Geometry, map: Geometry) -> Self {
        let cell = Cell { index: 0, offset: 0, count: tensor.segmentation.count() };
        Self { tensor, first_element: 0, first_instance: 0, cell, reduction, map, slot_base: 0 }
    }

    /// What is bound: from an offset that a binding may have, and whole units where the tensor has them.
    pub(super) fn region(&self, whole: Tensor, profile: &DeviceProfile) -> Region {
        let alignment = profile.slice_alignment() / self.tensor.element.size();
        let first_element = self.first_element / alignment * alignment;
        let end = (self.first_element + self.tensor.elements()).next_multiple_of(4).min(whole.elements());
        Region { first_element, elements: end - first_element }
    }

    pub(super) fn walk(
        &self,
        whole: Tensor,
        geometry: &Geometry,
        profile: &DeviceProfile,
        skips_padding: bool,
    ) -> Walk {
        let (region, family) = (self.region(whole, profile), geometry.family);
        let access = match family {
            _ if !region.elements.is_multiple_of(4) => Access::Scalar,
            Family::Rows if !self.tensor.has_whole_rows() => Access::Shared,
            Family::Rows => Access::Whole,
            Family::Columns => geometry.access_of_columns(skips_padding),
            Family::Quads => geometry.access_of_quads(skips_padding),
        };
        Walk { family, access, skips_padding }
    }
}

impl Region {
    /// What is bound of an activation mask beside it, in bytes; and how many bits there come before its own.
    pub(crate) fn of_mask(self, profile: &DeviceProfile) -> (Range<u64>, u64) {
        let alignment = profile.slice_alignment();
        let start = self.first_element / 8 / alignment * alignment;
        let end = (self.first_element + self.elements).div_ceil(32) * 4;
        (start..end, self.first_element - 8 * start)
    }
}

/// The windows of a tensor that no dispatch can go over as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Windows {
    pub windows: Vec<Window>,
    /// How many ranges the elements of every instance fall into.
    pub cells: u64,
    /// Slots of every instance.
    pub slots: u64,
    pub strategy: Strategy,
}

/// Bytes that one dispatch may go over.
pub(super) fn capacity(tensor: Tensor, profile: &DeviceProfile) -> u64 {
    let window = profile.max_window_size.max(LEAST_WINDOW_SIZE);
    profile.max_storage_buffer_binding_size.min(window).min(MAX_ELEMENTS * tensor.element.size())
}

/// The profile for a tensor that is to be cut: where the smallest piece that can be cut off is larger than a dispatch should go over,
/// the caller's wish gives way, as far as it must. Limits do not.
pub(super) fn yielding(tensor: Tensor, profile: &DeviceProfile) -> DeviceProfile {
    let least = Cut::new(tensor, profile).err().map_or(0, |elements| elements.saturating_mul(tensor.element.size()));
    DeviceProfile { max_window_size: profile.max_window_size.max(least), ..*profile }
}

/// How large windows are.
#[derive(Clone, Copy, Debug)]
struct Cut {
    parts: u64,
    outer: u64,
    channels: u64,
    inner: u64,
    begin: Begin,
}

impl Cut {
    /// The largest windows that fit; the error is the elements that would have to.
    fn new(tensor: Tensor, profile: &DeviceProfile) -> Result<Self, u64> {
        let alignment = profile.slice_alignment() / tensor.element.size();
        // What is bound begins up to an alignment before the window, and ends with a whole unit.
        let overhang = alignment + 4;
        let elements = (capacity(tensor, profile) / tensor.element.size()).saturating_sub(overhang);
        let (part, parts) = (tensor.part(), tensor.segmentation.parts);
        let step = outer_elements(part);
        let whole = Self {
            parts: 1,
            outer: part.outer,
            channels: u64::from(part.channels),
            inner: part.inner,
            begin: Begin::Unit,
        };
        // How many of equal pieces, of which each window but the last must be whole units.
        let in_units = |piece: u64| elements / piece.saturating_mul(4 / gcd(piece, 4)) * (4 / gcd(piece, 4));
        let part_in_units = parts == 1 || part.elements().is_multiple_of(4);
        if parts > 1 && part_in_units && part.elements() <= elements {
            return Ok(Self { parts: in_units(part.elements()).min(parts), ..whole });
        }
        if part_in_units && in_units(step) > 0 {
            return Ok(Self { outer: in_units(step).min(part.outer), ..whole });
        }
        // Only rows can begin anywhere, and not where they share words.
        if !tensor.maps(Family::Rows) {
            return Err(step.saturating_mul(4 / gcd(step, 4)).saturating_add(overhang));
        }
        let begin = if part.inner.is_multiple_of(4) { Begin::Unit } else { Begin::Anywhere };
        let rows = Self { begin, ..whole };
        if parts > 1 && part.elements() <= elements {
            return Ok(Self { parts: (elements / part.elements()).min(parts), ..rows });
        }
        if step <= elements {
            return Ok(Self { outer: (elements / step).min(part.outer), ..rows });
        }
        let row = Self { outer: 1, ..rows };
        if part.inner <= elements {
            return Ok(Self { channels: (elements / part.inner).min(whole.channels), ..row });
        }
        match elements / alignment * alignment {
            0 => Err(alignment + overhang),
            inner => Ok(Self { channels: 1, inner, ..row }),
        }
    }
}

impl Windows {
    /// Cuts a tensor that is larger than [`capacity`], by a profile that is [`yielding`].
    pub(super) fn new(tensor: Tensor, profile: &DeviceProfile, strategies: Strategies) -> Result<Self, Error> {
        let (part, parts) = (tensor.part(), tensor.segmentation.parts);
        let channels = u64::from(part.channels);
        let cut = Cut::new(tensor, profile).map_err(|elements| Error::LimitExceeded {
            limit: "max_storage_buffer_binding_size",
            required: elements.saturating_mul(tensor.element.size()),
            available: capacity(tensor, profile),
        })?;
        let cells = part.outer.div_ceil(cut.outer) * part.inner.div_ceil(cut.inner);
        let count = cells.saturating_mul(parts.div_ceil(cut.parts)).saturating_mul(channels.div_ceil(cut.channels));
        if count > MAX_WINDOWS {
            return Err(Error::TooManyWindows { windows: count, most: MAX_WINDOWS });
        }
        let instances = tensor.segmentation.instances();
        let binding = profile.max_storage_buffer_binding_size;
        let fitting = slots_within_binding(tensor, cells, profile).ok_or_else(|| {
            let limit = "max_storage_buffer_binding_size";
            let required = instances.saturating_mul(cells + 3).saturating_mul(RECORD_SIZE);
            Error::LimitExceeded { limit, required, available: binding }
        })?;
        let merging = u64::from(profile.finalize_workgroup_size());
        let most = fitting.min((SLOTS_PER_POSITION * merging / cells).max(1));
        let most_slots = most.min(max_window_slots(tensor, profile, cells));
        let reduction_of = |tensor: Tensor, family| {
            // In columns an instance may have several slots a window, however few are asked for.
            Geometry::window_reduction(tensor, profile, family, most_slots)
                .filter(|geometry| family == Family::Rows || geometry.slots <= most)
        };
        let tensor = Tensor { begin: cut.begin, ..tensor };
        let largest = tensor.piece(cut.parts.min(parts), cut.outer.min(part.outer), cut.channels, cut.inner);
        let strategy = strategy(largest, profile, strategies, |family| reduction_of(largest, family).is_some())?;
        let Strategy::Split { reduction, elementwise } = strategy else {
            return Err(Error::StrategyNotServed { strategy });
        };
        let laid = |tensor: Tensor| {
            // A last window that is short may have workgroups too narrow for columns.
            let reduction = reduction_of(tensor, reduction)
                .unwrap_or_else(|| Geometry::window_rows_reduction(tensor, profile, most_slots));
            (reduction, Geometry::elementwise(tensor, profile, elementwise))
        };
        let mut windows = Vec::new();
        let mut slots = 0;
        for first_part in (0..parts).step_by(cut.parts as usize) {
            let window_parts = cut.parts.min(parts - first_part);
            slots = 0;
            let mut index = 0;
            for first_outer in steps(part.outer, cut.outer) {
                let outer = cut.outer.min(part.outer - first_outer);
                for first_inner in steps(part.inner, cut.inner) {
                    let inner = cut.inner.min(part.inner - first_inner);
                    let offset = first_outer * u64::from(part.channels) * part.inner + first_inner;
                    let cell = Cell { index, offset, count: outer * inner };
                    // All windows of a cell are laid out alike, so that their instances have equally many slots.
                    let (reduction, map) = laid(tensor.piece(cut.parts.min(parts), outer, cut.channels, inner));
                    for first_channel in steps(u64::from(part.channels), cut.channels) {
                        let channels = cut.channels.min(u64::from(part.channels) - first_channel);
                        let tensor = tensor.piece(window_parts, outer, channels, inner);
                        windows.push(Window {
                            tensor,
                            first_element: first_part * part.elements() + offset + first_channel * part.inner,
                            first_instance: first_part * u64::from(part.channels) + first_channel,
                            cell,
                            reduction: reduction.over(tensor),
                            map: map.over(tensor),
                            slot_base: slots,
                        });
                    }
                    slots += reduction.slots;
                    index += 1;
                }
            }
        }
        for window in &windows {
            window.reduction.workgroups(profile)?;
            window.map.workgroups(profile)?;
        }
        if slots > SLOTS_PER_POSITION * merging {
            let required = slots.div_ceil(SLOTS_PER_POSITION);
            return Err(Error::LimitExceeded {
                limit: "max_compute_invocations_per_workgroup",
                required,
                available: merging,
            });
        }
        Ok(Self { windows, cells, slots, strategy })
    }
}

fn steps(length: u64, step: u64) -> impl Iterator<Item = u64> {
    (0..length.div_ceil(step)).map(move |index| index * step)
}

/// Slots that a window may have, so that the partials stay within a binding.
fn slots_within_binding(tensor: Tensor, cells: u64, profile: &DeviceProfile) -> Option<u64> {
    let instances = tensor.segmentation.instances();
    let fitting = (profile.max_storage_buffer_binding_size / (RECORD_SIZE * instances)).checked_sub(3)? / cells;
    (fitting > 0).then_some(fitting)
}

fn strategy(
    window: Tensor,
    profile: &DeviceProfile,
    strategies: Strategies,
    reduces: impl Fn(Family) -> bool,
) -> Result<Strategy, Error> {
    let maps = |family| window.maps(family);
    let chosen = Strategy::Split {
        reduction: Some(selection::select_reduction(window, profile).family)
            .filter(|&f| reduces(f))
            .unwrap_or(Family::Rows),
        elementwise: Some(selection::select_inference(window, profile)).filter(|&f| maps(f)).unwrap_or(Family::Rows),
    };
    let pins = [strategies.training, strategies.backward];
    let wanted = pins.into_iter().flatten().next();
    let wanted = match (wanted.unwrap_or(chosen), strategies.inference) {
        (Strategy::Split { reduction, .. }, Some(elementwise)) if wanted.is_none() => {
            Strategy::Split { reduction, elementwise }
        }
        (strategy, _) => strategy,
    };
    let served = match wanted {
        Strategy::Split { reduction, elementwise } => reduces(reduction) && maps(elementwise),
        Strategy::ChannelLoop(_) | Strategy::Resident(_) => false,
    };
    if !served {
        return Err(Error::StrategyNotServed { strategy: wanted });
    }
    // All operations go over windows in one way.
    let clashes = |strategy: &Strategy| *strategy != wanted;
    let inference = strategies.inference.map(|family| Strategy::Split { reduction: family, elementwise: family });
    let inference = inference.filter(|_| strategies.inference != Some(elementwise_of(wanted)));
    match pins.into_iter().flatten().find(clashes).or(inference) {
        Some(strategy) => Err(Error::StrategyNotServed { strategy }),
        None => Ok(wanted),
    }
}

const fn elementwise_of(strategy: Strategy) -> Family {
    match strategy {
        Strategy::Split { elementwise, .. } => elementwise,
        Strategy::ChannelLoop(family) | Strategy::Resident(family) => family,
    }
}

impl Tensor {
    /// A piece of it that is a tensor of its own.
    fn piece(self, parts: u64, outer: u64, channels: u64, inner: u64) -> Self {
        let part = Problem { outer, channels: narrow(channels), inner };
        Self { segmentation: Segmentation { parts, part, ..self.segmentation }, ..self }
    }
}
