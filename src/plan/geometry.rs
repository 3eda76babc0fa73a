//! How a kernel's workgroups and invocations are laid over a tensor.
//!
//! All families hand every invocation a *lane* (or, on software drivers, several of columns; rows: a channel; columns: a unit column; quads: four channels) and a
//! *position* within the lane, let positions step through the lane's *extent* (rows: the units of the channel; columns:
//! super-rows; quads: the units of the four channels), and cut the extent into *splits*, one workgroup each, for as many
//! workgroups as fill the machine.

use super::kernel::{Access, Family, Kernel, Walk};
use super::params::Params;
use super::positions::{Positions, Use, useful_positions};
use super::profile::DeviceProfile;
use super::workspace::RECORD_SIZE;
use crate::{ElementType, Error, Problem, Segmentation};

/// Units that an invocation takes per loop trip.
pub(super) const UNITS_PER_BLOCK: u64 = 4;

/// Slots beyond this make the merge longer than what their splits save, unless the loop bound asks for them.
const MAX_SLOTS: u64 = 256;

/// Slots that every workgroup of a map may merge whatever it maps.
const FEW_SLOTS: u64 = 4;

/// Bytes that a workgroup must map for every byte of partials that it merges first.
const LEAST_MAPPED_PER_MERGED: u64 = 4;

/// Units that an invocation takes one at a time at most, so that all its loops together stay within what every driver allows.
pub(super) const MAX_RUN_UNITS: u64 = 1 << 13;

/// Elements of a row, and so units of four, of which a reduction of quads takes whole rows within the loops that it may make.
const MAX_QUAD_ROW: u64 = 1 << 13;

/// Invocations of a workgroup that takes several lanes with each: those that a software driver runs as one vector.
pub(super) const SPAN_INVOCATIONS: u32 = 8;

/// Lanes that an invocation takes side by side at most, as in `shaders/walk/spans.wgsl`.
const MOST_LANES_PER_SPAN: u64 = 8;

/// Column units that a workgroup reads side by side at least: 64 bytes.
const LEAST_LANES: u64 = 4;

/// A tensor as kernels go over it: one part after the other, all of the same shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub segmentation: Segmentation,
    pub element: ElementType,
    pub begin: Begin,
    /// Instances that the workspace is for: those of training, where the tensor is that of what reads running statistics.
    pub most_instances: u64,
}

/// Where a tensor's first element stands in what is bound of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// First in a unit. All tensors, but for some windows of larger ones.
    Unit,
    Anywhere,
}

impl Tensor {
    pub(super) const fn new(segmentation: Segmentation, element: ElementType, most_instances: u64) -> Self {
        Self { segmentation, element, begin: Begin::Unit, most_instances }
    }

    /// Whether every row begins and ends with a unit.
    pub(super) const fn has_whole_rows(&self) -> bool {
        !matches!(self.begin, Begin::Anywhere) && self.part().inner.is_multiple_of(4)
    }

    /// One part.
    pub(super) const fn part(&self) -> Problem {
        self.segmentation.part
    }

    pub(super) const fn elements(&self) -> u64 {
        self.segmentation.parts * self.part().elements()
    }

    /// Whether columns can walk it: by units that are of one part.
    pub(super) const fn has_columns(&self) -> bool {
        let whole_units = self.segmentation.parts == 1 || self.part().elements().is_multiple_of(4);
        whole_units && matches!(self.begin, Begin::Unit)
    }

    /// Whether quads can walk it, and are of use: four rows one after the other are whole units, one is not, and a unit has
    /// elements of two rows at most. Long rows, which need not be taken whole, have few units that they share.
    pub(super) const fn has_quads(&self) -> bool {
        let Problem { channels, inner, .. } = self.part();
        let shared = inner > 4 && inner <= MAX_QUAD_ROW && !inner.is_multiple_of(4);
        shared && channels.is_multiple_of(4) && matches!(self.begin, Begin::Unit)
    }

    /// Whether a family can write it: not where neighbouring rows, which different workgroups write, share a word.
    pub(super) const fn maps(&self, family: Family) -> bool {
        match (family, self.element) {
            (Family::Rows, ElementType::F16 | ElementType::Bf16) => self.has_whole_rows(),
            (Family::Rows, ElementType::F32) => true,
            (Family::Columns, _) => self.has_columns(),
            (Family::Quads, _) => self.has_quads(),
        }
    }
}

/// The shape of one dispatch, in the terms of `shaders/common/params.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub family: Family,
    pub workgroup_size: u32,
    pub tiles: u64,
    pub splits: u64,
    pub lanes: u64,
    pub positions: u64,
    pub row_units: u64,
    pub extent: u64,
    pub split_extent: u64,
    pub blocks: u64,
    /// Repetitions of the channel sequence in a super-row; 1 in the other families.
    pub repeats: u64,
    /// Partials of a channel.
    pub slots: u64,
    /// Whether one vector of invocations takes several lanes each, where kernels go over whole units in a loop and nobody asks what is
    /// padding.
    pub spans: bool,
    /// Quads: whether an invocation takes whole rows run by run, where nobody asks what is padding. Its quad's other positions, if there
    /// are any, take the rows between.
    pub runs: bool,
}

/// What the extent is cut for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Cut as little as parallelism allows, into so many slots unless loops ask for more: every split costs a merge.
    Reduction(u64),
    /// Cut as finely as is handy.
    Elementwise,
    /// As `Elementwise`, but every workgroup merges slots first.
    Second,
}

impl Geometry {
    /// For a kernel that reduces a tensor to one partial per channel and slot; `None` where a run of columns is wider
    /// than a workgroup, or partials do not fit a binding.
    pub(super) fn reduction(tensor: Tensor, profile: &DeviceProfile, family: Family) -> Option<Self> {
        let most_slots = max_slots(tensor, profile);
        Self::window_reduction(tensor, profile, family, most_slots)
            // A super-row of several outer steps has as many partials of a channel, whatever the workspace may be.
            .filter(|geometry| geometry.repeats <= most_slots.max(1))
    }

    /// As [`Geometry::reduction`], with so many slots at most, but as many as loops ask for.
    pub(super) fn window_reduction(
        tensor: Tensor,
        profile: &DeviceProfile,
        family: Family,
        most_slots: u64,
    ) -> Option<Self> {
        let part = tensor.part();
        let purpose = Purpose::Reduction(most_slots);
        match family {
            Family::Rows => Some(Self::window_rows_reduction(tensor, profile, most_slots)),
            Family::Quads => tensor.has_quads().then(|| Self::rows(tensor, profile, family, purpose)),
            Family::Columns if !tensor.has_columns() => None,
            Family::Columns if quantum(part) > profile.columns_workgroup_size(row_units_of_columns(part)) => None,
            Family::Columns => Some(Self::columns(tensor, profile, purpose)).filter(|geometry| {
                // As `Workspace`, which may hold merged partials too.
                let partials = ((geometry.slots + 2) * tensor.segmentation.instances() + 2) * RECORD_SIZE;
                partials + profile.slice_alignment() <= profile.max_storage_buffer_binding_size
            }),
        }
    }

    /// The reduction that serves every problem.
    pub(super) fn rows_reduction(tensor: Tensor, profile: &DeviceProfile) -> Self {
        Self::window_rows_reduction(tensor, profile, max_slots(tensor, profile))
    }

    /// As [`Geometry::rows_reduction`], with so many slots at most, but as many as loops ask for.
    pub(super) fn window_rows_reduction(tensor: Tensor, profile: &DeviceProfile, most_slots: u64) -> Self {
        Self::rows(tensor, profile, Family::Rows, Purpose::Reduction(most_slots))
    }

    /// For a kernel that maps a tensor to a tensor.
    pub(super) fn elementwise(tensor: Tensor, profile: &DeviceProfile, family: Family) -> Self {
        Self::map(tensor, profile, family, Purpose::Elementwise)
    }

    /// For a kernel that merges the slots of a reduction and maps a tensor to a tensor.
    pub(super) fn second(tensor: Tensor, profile: &DeviceProfile, family: Family) -> Self {
        Self::map(tensor, profile, family, Purpose::Second)
    }

    fn map(tensor: Tensor, profile: &DeviceProfile, family: Family, purpose: Purpose) -> Self {
        match family {
            Family::Rows | Family::Quads => Self::rows(tensor, profile, family, purpose),
            Family::Columns => Self::columns(tensor, profile, purpose),
        }
    }

    /// For a kernel whose workgroups have their channels to themselves, with at most `max_blocks` trips an invocation;
    /// `None` where a channel does not fit that way.
    pub(super) fn whole_channels(
        tensor: Tensor,
        profile: &DeviceProfile,
        family: Family,
        max_blocks: u64,
    ) -> Option<Self> {
        let geometry = match family {
            Family::Quads if !tensor.has_quads() => return None,
            Family::Rows | Family::Quads => Self::whole_rows(tensor, profile, family),
            Family::Columns => Self::whole_columns(tensor, profile, max_blocks)?,
        };
        (geometry.blocks <= max_blocks).then_some(geometry)
    }

    fn whole_rows(tensor: Tensor, profile: &DeviceProfile, family: Family) -> Self {
        let geometry = Self::uncut_rows(tensor, profile, family, Use::Reduced);
        let trip = geometry.positions * UNITS_PER_BLOCK;
        Self { split_extent: geometry.extent, blocks: geometry.extent.div_ceil(trip), slots: 1, ..geometry }
    }

    /// As many lanes as are good for loads, fewer where the channels would not fit or not fill the machine otherwise.
    fn whole_columns(tensor: Tensor, profile: &DeviceProfile, max_blocks: u64) -> Option<Self> {
        let (problem, parts) = (tensor.part(), tensor.segmentation.parts);
        let repeats = repeats(problem);
        let extent = problem.outer.div_ceil(repeats);
        let row_units = row_units_of_columns(problem);
        // Whole runs; and where a channel stands several times in a super-row, the whole super-row.
        let quantum = if repeats == 1 { quantum(problem) } else { row_units };
        let most = profile.columns_workgroup_size(row_units);
        if quantum > most || !tensor.has_columns() {
            return None;
        }
        let wanted = profile.tuning().lanes.max(quantum).min(row_units);
        let fitting = |wanted: u64| {
            let lanes = wanted.next_multiple_of(quantum).min(row_units).min(most / quantum * quantum);
            // On a software driver no more vectors than there is work for.
            let size = if profile.is_cpu() { lanes.next_power_of_two().clamp(8.min(most), most) } else { most };
            let positions = (size / lanes).min(useful_positions(extent));
            Self {
                family: Family::Columns,
                workgroup_size: narrow(size),
                tiles: parts * row_units.div_ceil(lanes),
                splits: 1,
                lanes,
                positions,
                row_units,
                extent,
                split_extent: extent,
                blocks: extent.div_ceil(positions * UNITS_PER_BLOCK),
                repeats,
                slots: 1,
                spans: has_spans(problem, profile, lanes, positions) && extent <= max_span_rows(profile),
                runs: false,
            }
        };
        let mut lanes = wanted;
        loop {
            let geometry = fitting(lanes);
            let fits = geometry.blocks <= max_blocks;
            let narrowest = lanes <= quantum.max(LEAST_LANES);
            if narrowest || (fits && geometry.tiles >= profile.tuning().least_whole_groups) {
                return fits.then_some(geometry);
            }
            lanes = (lanes / 2).max(quantum);
        }
    }

    fn rows(tensor: Tensor, profile: &DeviceProfile, family: Family, purpose: Purpose) -> Self {
        let used = match purpose {
            Purpose::Elementwise => Use::Mapped,
            Purpose::Reduction(_) | Purpose::Second => Use::Reduced,
        };
        let mut geometry = Self::uncut_rows(tensor, profile, family, used);
        geometry.split(profile, purpose);
        geometry.slots = geometry.splits;
        geometry
    }

    /// Lanes and positions of rows, of a channel or of four.
    fn uncut_rows(tensor: Tensor, profile: &DeviceProfile, family: Family, used: Use) -> Self {
        let (row_units, all_lanes) = match family {
            Family::Quads => (tensor.part().inner, tensor.segmentation.instances() / 4),
            Family::Rows | Family::Columns => (row_units(tensor), tensor.segmentation.instances()),
        };
        let extent = tensor.part().outer * row_units;
        let size = profile.rows_workgroup_size();
        let Positions { count: positions, runs } = Positions::of_rows(tensor, profile, family, all_lanes, extent, used);
        let lanes = size / positions;
        Self {
            family,
            workgroup_size: narrow(size),
            tiles: all_lanes.div_ceil(lanes),
            splits: 1,
            lanes,
            positions,
            row_units,
            extent,
            split_extent: 0,
            blocks: 0,
            repeats: 1,
            slots: 0,
            spans: false,
            runs,
        }
    }

    fn columns(tensor: Tensor, profile: &DeviceProfile, purpose: Purpose) -> Self {
        let (problem, parts) = (tensor.part(), tensor.segmentation.parts);
        let repeats = repeats(problem);
        let extent = problem.outer.div_ceil(repeats);
        let row_units = row_units_of_columns(problem);
        let size = profile.columns_workgroup_size(row_units);
        let useful = useful_positions(extent);
        let wanted = profile.tuning().lanes.max(size / useful.min(size));
        // A reduction merges the columns of a run within the workgroup, so tiles must not cut runs.
        let quantum = match purpose {
            Purpose::Reduction(_) => quantum(problem),
            Purpose::Elementwise | Purpose::Second => 1,
        };
        // Equally wide tiles; a lone tile has whole runs whatever its width.
        let tiles = row_units.div_ceil(wanted.min(size));
        let lanes = if tiles == 1 {
            row_units
        } else {
            let widest = (size / quantum * quantum).max(quantum);
            row_units.div_ceil(tiles).next_multiple_of(quantum).min(widest)
        };
        let positions = (size / lanes).min(useful);
        let mut geometry = Self {
            family: Family::Columns,
            workgroup_size: narrow(size),
            tiles: parts * row_units.div_ceil(lanes),
            splits: 1,
            lanes,
            positions,
            row_units,
            extent,
            split_extent: 0,
            blocks: 0,
            repeats,
            slots: 0,
            spans: has_spans(problem, profile, lanes, positions) && extent <= MAX_SLOTS * max_span_rows(profile),
            runs: false,
        };
        geometry.split(profile, purpose);
        // A row of spans is as many turns of a loop as it has lanes, so that these ask for more splits.
        if matches!(purpose, Purpose::Reduction(most_slots) if geometry.spans && geometry.splits > most_slots.max(1)) {
            geometry.spans = false;
            geometry.split(profile, purpose);
        }
        geometry.slots = geometry.splits * repeats;
        geometry
    }

    /// Cuts the extent.
    fn split(&mut self, profile: &DeviceProfile, purpose: Purpose) {
        let tuning = profile.tuning();
        let trip = self.positions * UNITS_PER_BLOCK;
        let blocks = self.extent.div_ceil(trip);
        let filling = tuning.workgroups.div_ceil(self.tiles);
        let wanted = match purpose {
            Purpose::Reduction(_) | Purpose::Second if profile.is_cpu() && self.family == Family::Columns => {
                filling.min(most_splits_of_columns(self.extent))
            }
            _ => filling,
        };
        let splits = match purpose {
            Purpose::Reduction(most_slots) => wanted.min(blocks / tuning.least_blocks).min(most_slots / self.repeats),
            Purpose::Elementwise => {
                wanted.max(blocks.div_ceil(tuning.elementwise_blocks[self.family as usize])).min(blocks)
            }
            Purpose::Second => wanted.max(blocks.div_ceil(tuning.second_blocks[self.family as usize])).min(blocks),
        };
        let most_blocks = match purpose {
            _ if self.spans => max_span_rows(profile) / UNITS_PER_BLOCK,
            // The one long walk of its kernel.
            Purpose::Reduction(_) => 2 * profile.max_blocks(),
            Purpose::Elementwise | Purpose::Second => profile.max_blocks(),
        };
        let splits = splits.max(blocks.div_ceil(most_blocks)).max(1);
        // Whole trips per split, so that only the last split has a ragged end; of quads whole rows where a slot without elements of some
        // of the four channels would come of less, and where they are taken run by run, one for each position.
        let reduces = matches!(purpose, Purpose::Reduction(_)) && self.family == Family::Quads;
        let step = match (self.runs, reduces) {
            (true, _) => self.positions * self.row_units,
            (false, true) => self.row_units,
            (false, false) => trip,
        };
        self.split_extent = (blocks.div_ceil(splits) * trip).next_multiple_of(step).min(self.extent);
        self.splits = self.extent.div_ceil(self.split_extent);
        self.blocks = self.split_extent.div_ceil(trip);
    }

    /// The same for a tensor with other channels or parts, whose instances are alike.
    pub(super) fn over(self, tensor: Tensor) -> Self {
        match self.family {
            Family::Rows => Self { tiles: tensor.segmentation.instances().div_ceil(self.lanes), ..self },
            Family::Quads => Self { tiles: (tensor.segmentation.instances() / 4).div_ceil(self.lanes), ..self },
            Family::Columns => {
                let row_units = row_units_of_columns(tensor.part());
                Self { tiles: tensor.segmentation.parts * row_units.div_ceil(self.lanes), row_units, ..self }
            }
        }
    }

    pub(super) const fn access_of_columns(&self, skips_padding: bool) -> Access {
        if self.spans && !skips_padding { Access::Spans } else { Access::Whole }
    }

    /// Invocations of a workgroup of a kernel that walks so.
    pub(super) fn workgroup_size_of(&self, kernel: Kernel) -> u32 {
        if kernel.walk().is_some_and(Walk::has_spans) { SPAN_INVOCATIONS } else { self.workgroup_size }
    }

    pub(super) const fn access_of_quads(&self, skips_padding: bool) -> Access {
        if self.runs && !skips_padding { Access::Runs } else { Access::Whole }
    }

    /// Workgroups that have work.
    pub(super) const fn groups(&self) -> u64 {
        self.tiles * self.splits
    }

    /// The workgroup counts, folded so that no dimension exceeds the device's limit.
    pub(super) fn workgroups(&self, profile: &DeviceProfile) -> Result<[u32; 3], Error> {
        fold(self.groups(), profile)
    }

    /// Fills in the fields that describe the walk. All of them fit: the tensor, or the window, fits one binding.
    pub(super) fn describe(&self, tensor: Tensor, profile: &DeviceProfile, params: &mut Params) {
        let problem = tensor.part();
        params.part_tiles = narrow(match self.family {
            Family::Rows | Family::Quads => self.tiles,
            Family::Columns => self.tiles / tensor.segmentation.parts,
        });
        params.groups = narrow(self.tiles * self.splits);
        params.tiles = narrow(self.tiles);
        params.lanes = narrow(self.lanes);
        params.positions = narrow(self.positions);
        params.merge_groups = merge_groups(self.positions);
        params.row_units = narrow(self.row_units);
        params.extent = narrow(self.extent);
        params.split_extent = narrow(self.split_extent);
        params.outer_elements = narrow(outer_elements(problem));
        params.step_elements = narrow(self.positions / self.row_units * outer_elements(problem));
        params.trips_in_step = profile.trips_in_step(self.family, self.workgroup_size, self.blocks, tensor.elements());
        params.step_unit = narrow(self.positions % self.row_units);
        params.blocks = narrow(self.blocks);
        params.repeats = narrow(self.repeats);
        params.slots = narrow(self.slots);
    }

    /// Whether merging `slots` partials a channel would cost the workgroups of this geometry too much beside the map.
    pub(super) const fn merges_apart(&self, slots: u64) -> bool {
        let channels = match self.family {
            Family::Rows => self.lanes,
            Family::Columns | Family::Quads => 4 * self.lanes,
        };
        // Read twice, for two rounds.
        let merged = 2 * slots * channels * RECORD_SIZE;
        // Read and written.
        let mapped = 2 * self.lanes * self.positions * self.blocks * UNITS_PER_BLOCK * 16;
        slots > FEW_SLOTS && merged * LEAST_MAPPED_PER_MERGED > mapped
    }

    /// Fills in how the workgroups of this geometry merge the slots of a reduction.
    pub(super) fn describe_merge(&self, slots: u64, profile: &DeviceProfile, params: &mut Params) {
        // A place with one channel takes four slots at once.
        let groups = if self.family == Family::Rows { slots.div_ceil(4) } else { slots };
        // On a software driver an invocation that waits costs as much as one that merges.
        let positions = if profile.is_cpu() { 1 } else { groups.min(self.positions) };
        params.slots = narrow(slots);
        params.slot_positions = narrow(positions);
        params.slot_merge_groups = merge_groups(positions);
    }
}

/// The shape of a finalize dispatch: lanes are groups of four channels, positions walk the slots.
pub(crate) struct FinalizeGeometry {
    pub workgroup_size: u32,
    pub groups: u64,
    pub lanes: u64,
    pub positions: u64,
}

impl FinalizeGeometry {
    pub(super) fn new(channels: u64, slots: u64, profile: &DeviceProfile) -> Self {
        let workgroup_size = profile.finalize_workgroup_size();
        let size = u64::from(workgroup_size);
        let positions = slots.div_ceil(4).max(1).next_power_of_two().min(size);
        let lanes = size / positions;
        Self { workgroup_size, groups: channels.div_ceil(4).div_ceil(lanes), lanes, positions }
    }

    pub(super) fn workgroups(&self, profile: &DeviceProfile) -> Result<[u32; 3], Error> {
        fold(self.groups, profile)
    }

    pub(super) fn describe(&self, params: &mut Params, slots: u64) {
        params.groups = narrow(self.groups);
        params.tiles = narrow(self.groups);
        params.lanes = narrow(self.lanes);
        params.positions = narrow(self.positions);
        params.slot_positions = narrow(self.positions);
        params.slot_merge_groups = merge_groups(self.positions);
        params.slots = narrow(slots);
    }
}

/// Elements between two outer steps.
pub(super) fn outer_elements(problem: Problem) -> u64 {
    // An empty batch may have astronomic rows.
    u64::from(problem.channels).saturating_mul(problem.inner)
}

/// Units that a row touches at most.
fn row_units(tensor: Tensor) -> u64 {
    let inner = tensor.part().inner;
    if tensor.has_whole_rows() { inner / 4 } else { (inner + 6) / 4 }
}

/// Units of a super-row; the last unit of a lone one may be partial.
fn row_units_of_columns(problem: Problem) -> u64 {
    (repeats(problem) * outer_elements(problem)).div_ceil(4)
}

/// Outer steps of a super-row: the fewest that make a multiple of four elements, or all there are.
pub(super) fn repeats(problem: Problem) -> u64 {
    (4 / gcd(outer_elements(problem), 4)).min(problem.outer)
}

/// The fewest units that are whole runs.
fn quantum(problem: Problem) -> u64 {
    problem.inner / gcd(problem.inner, 4)
}

/// Slots of a reduction, unless loops ask for more.
pub(super) fn max_slots(tensor: Tensor, profile: &DeviceProfile) -> u64 {
    slots_within_budget(tensor, profile).min(MAX_SLOTS)
}

/// As [`max_slots`], for the reduction of each of the windows that an instance's elements fall into.
pub(super) fn max_window_slots(tensor: Tensor, profile: &DeviceProfile, cells: u64) -> u64 {
    (slots_within_budget(tensor, profile) / cells).clamp(1, MAX_SLOTS)
}

/// Whether invocations may take several lanes of columns: where each component of a unit is another channel, row after row.
fn has_spans(problem: Problem, profile: &DeviceProfile, lanes: u64, positions: u64) -> bool {
    let invocations = u64::from(SPAN_INVOCATIONS);
    let lanes_fit = lanes > invocations && lanes <= MOST_LANES_PER_SPAN * invocations;
    let width_fits = profile.vector_width == SPAN_INVOCATIONS && profile.rows_workgroup_size() == invocations;
    let vector = profile.is_cpu() && width_fits;
    vector && problem.inner == 1 && repeats(problem) == 1 && positions == 1 && lanes_fit
}

/// Rows that an invocation may take by spans: a row may be as many turns of a loop as it has lanes, and one, twice in a kernel that
/// reduces and maps.
const fn max_span_rows(profile: &DeviceProfile) -> u64 {
    let rows = 8 * profile.max_blocks() / 5 / (1 + MOST_LANES_PER_SPAN);
    rows - rows % UNITS_PER_BLOCK
}

/// Splits of columns on a software driver in a reduction, and in the dispatch that merges its slots: a slot takes about as long to
/// merge as six rows to map, and every workgroup merges all, so that with as many splits as slots merging is a tenth of mapping where
/// `64 · splits²` are the rows.
const fn most_splits_of_columns(rows: u64) -> u64 {
    let most = (rows / 64).isqrt();
    if most == 0 { 1 } else { most }
}

/// Slots that keep the workspace within 1 % of the tensor, or within 64 bytes an instance and 64 KiB.
fn slots_within_budget(tensor: Tensor, profile: &DeviceProfile) -> u64 {
    let Tensor { segmentation, element, most_instances, .. } = tensor;
    // Where segments share gamma, their gradients are there too.
    let shared = if segmentation.segments() > 1 || most_instances > segmentation.instances() { 8 } else { 0 };
    let budget = (element.tensor_size(tensor.elements()) / 100).max((64 + shared) * most_instances + (64 << 10));
    // What the workspace holds besides partials: what is prepared, statistics, batch counts, and the alignment of its regions.
    let rest = (3 * RECORD_SIZE + shared) * most_instances + 4 * profile.slice_alignment().max(256);
    let partials = budget.saturating_sub(rest) / (RECORD_SIZE * segmentation.instances());
    // And, where there are more than a few, one that all are merged to.
    if partials > FEW_SLOTS { (partials - 1).max(FEW_SLOTS) } else { partials }
}

/// About the square root, so that both merge steps are equally short.
fn merge_groups(positions: u64) -> u32 {
    1 << (positions.next_power_of_two().ilog2() / 2)
}

pub(super) fn fold(groups: u64, profile: &DeviceProfile) -> Result<[u32; 3], Error> {
    let limit = u64::from(profile.max_compute_workgroups_per_dimension);
    let rows = groups.div_ceil(limit.max(1));
    if rows > limit {
        return Err(Error::LimitExceeded {
            limit: "max_compute_workgroups_per_dimension",
            required: rows,
            available: limit,
        });
    }
    Ok([narrow(groups.min(limit)), narrow(rows), 1])
}

pub(super) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Planner values fit 32 bits because tensors and windows fit one binding, which is checked first; saturation would be a planner bug
/// that the coverage tests catch.
pub(crate) fn narrow(value: u64) -> u32 {
    debug_assert!(u32::try_from(value).is_ok(), "{value} does not fit 32 bits");
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// For what the host knows of tensors that only windows serve, and no kernel is told.
pub(crate) fn saturated(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
