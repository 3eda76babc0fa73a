//! The floor of an operation: the least kernels that read and write its tensors in the orders that invocations can walk who hold the
//! statistics of one lane, or of a few, and compute no statistics. What a floor is above the limit no kernel of these orders can save;
//! what an operation is above its floor is its own.

use wgpu_batch_norm::Layout;

use crate::buffers::Buffers;
use crate::operations::Operation;
use crate::shapes::Dims;
use crate::support::Gpu;
use crate::timer::{Record, Timer};

const WHOLE: &str = include_str!("floor/whole.wgsl");
const SHARED: &str = include_str!("floor/shared.wgsl");
const SPANS: &str = include_str!("floor/spans.wgsl");

/// Trips of four units that an invocation takes; beside them, all of a lane.
const BLOCKS: [u64; 3] = [4, 16, 64];

/// Rows that a kernel of spans takes in all its walks: a driver that ends loops after 65,535 turns may count one for every lane too.
const MOST_ROWS_OF_SPANS: u64 = 6_000;

/// How whole units make lanes, in the terms of `floor/whole.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Walk {
    side_by_side: bool,
    all_lanes: u64,
    run: u64,
    distance: u64,
    extent: u64,
}

/// The walk over a layout by whole units, if there is one; and whether rows share their end units, so that this is a walk over four
/// channels at once.
fn walk([n, c, h, w]: Dims, layout: Layout) -> (Option<Walk>, bool) {
    let [n, c, positions] = [n as u64, c as u64, (h * w) as u64];
    let (outer, inner) = match layout {
        Layout::ChannelsFirst => (n, positions),
        Layout::ChannelsLast => (n * positions, 1),
    };
    let step = c * inner;
    if inner < 16 {
        // Whole outer steps that are whole units.
        let steps = (1..=4).find(|steps| (steps * step).is_multiple_of(4)).filter(|steps| outer.is_multiple_of(*steps));
        let columns = steps.map(|steps| steps * step / 4);
        let lanes = |units| Walk {
            side_by_side: true,
            all_lanes: units,
            run: 1,
            distance: units,
            extent: outer * step / 4 / units,
        };
        return (columns.map(lanes), false);
    }
    let rows = |channels: u64| Walk {
        side_by_side: false,
        all_lanes: c / channels,
        run: channels * inner / 4,
        distance: step / 4,
        extent: outer * channels * inner / 4,
    };
    match (inner.is_multiple_of(4), c.is_multiple_of(4)) {
        (true, _) => (Some(rows(1)), false),
        (false, true) => (Some(rows(4)), true),
        (false, false) => (None, true),
    }
}

/// A kernel with its constants.
#[derive(Clone, Debug)]
struct Kernel {
    text: &'static str,
    constants: Vec<(&'static str, f64)>,
    groups: u64,
    name: String,
}

/// Which tensors are summed, and which are read again.
type Walks = [u32; 2];

impl Walk {
    /// `blocks` trips an invocation, or a whole lane.
    fn kernel(&self, size: u64, positions: u64, blocks: Option<u64>, waits: bool, [summed, mapped]: Walks) -> Kernel {
        let lanes = (size / positions).min(self.all_lanes);
        let split = blocks.map_or(self.extent, |blocks| (4 * positions * blocks).min(self.extent));
        let flag = |is| if is { 1.0 } else { 0.0 };
        let constants = vec![
            ("WORKGROUP_SIZE", size as f64),
            ("SIDE_BY_SIDE", flag(self.side_by_side)),
            ("LANES", lanes as f64),
            ("POSITIONS", positions as f64),
            ("ALL_LANES", self.all_lanes as f64),
            ("RUN", self.run as f64),
            ("DISTANCE", self.distance as f64),
            ("EXTENT", self.extent as f64),
            ("SPLIT", split as f64),
            ("SUMMED", f64::from(summed)),
            ("MAPPED", f64::from(mapped)),
            ("WAITS", flag(waits)),
        ];
        let trips = split.div_ceil(4 * positions);
        let name = format!("{size}x{trips}{}", if waits { "w" } else { "" });
        Kernel { text: WHOLE, constants, groups: self.all_lanes.div_ceil(lanes) * self.extent.div_ceil(split), name }
    }

    /// With several lanes an invocation, in workgroups of 8, and so many rows or all; `None` where rows have too few lanes, or loops
    /// too many turns.
    fn kernel_of_spans(&self, rows: Option<u64>, [summed, mapped]: Walks) -> Option<Kernel> {
        if !self.side_by_side || self.all_lanes <= 8 {
            return None;
        }
        let tiles = self.all_lanes.div_ceil(64);
        let span = self.all_lanes.div_ceil(8 * tiles);
        let split = rows.unwrap_or(self.extent).min(self.extent);
        let walks = u64::from(summed > 0) + u64::from(mapped > 0);
        if split * walks > MOST_ROWS_OF_SPANS {
            return None;
        }
        let constants = vec![
            ("WORKGROUP_SIZE", 8.0),
            ("SPAN", span as f64),
            ("ALL_LANES", self.all_lanes as f64),
            ("EXTENT", self.extent as f64),
            ("SPLIT", split as f64),
            ("SUMMED", f64::from(summed)),
            ("MAPPED", f64::from(mapped)),
        ];
        let groups = self.all_lanes.div_ceil(8 * span) * self.extent.div_ceil(split);
        Some(Kernel { text: SPANS, constants, groups, name: format!("8x{split} rows of {span}") })
    }

    /// Positions of a lane in workgroups of `size`, each of which has something to do.
    fn positions(&self, size: u64) -> Vec<u64> {
        let useful = self.extent.div_ceil(4).next_power_of_two();
        if self.side_by_side { vec![(size / self.all_lanes).clamp(1, useful)] } else { vec![1, size.min(useful)] }
    }

    fn kernels(&self, walks: Walks) -> Vec<Kernel> {
        let sizes: &[u64] = if self.side_by_side { &[8, 16, 64] } else { &[8] };
        let mut kernels: Vec<Kernel> = Vec::new();
        for &size in sizes {
            for positions in self.positions(size) {
                for blocks in BLOCKS.map(Some).into_iter().chain([None]) {
                    // What is summed and mapped by one kernel is a whole lane.
                    if walks.iter().all(|tensors| *tensors > 0) && blocks.is_some() {
                        continue;
                    }
                    for waits in [false, true] {
                        if !waits || (self.side_by_side && size > 16) {
                            kernels.push(self.kernel(size, positions, blocks, waits, walks));
                        }
                    }
                }
            }
        }
        let both = walks.iter().all(|tensors| *tensors > 0);
        let rows = [Some(64), Some(256), None].into_iter().filter(|rows| rows.is_none() || !both);
        kernels.extend(rows.filter_map(|rows| self.kernel_of_spans(rows, walks)));
        kernels.dedup_by(|one, other| one.constants == other.constants);
        kernels
    }
}

fn shared_kernel([n, c, h, w]: Dims, middle_apart: bool, [summed, mapped]: Walks) -> Kernel {
    let constants = vec![
        ("WORKGROUP_SIZE", 8.0),
        ("CHANNELS", c as f64),
        ("INNER", (h * w) as f64),
        ("OUTER", n as f64),
        ("SUMMED", f64::from(summed)),
        ("MAPPED", f64::from(mapped)),
        ("MIDDLE_APART", if middle_apart { 1.0 } else { 0.0 }),
    ];
    let name = if middle_apart { "middles apart" } else { "by element" };
    Kernel { text: SHARED, constants, groups: (c as u64).div_ceil(8), name: name.into() }
}

/// Which kernels the floor is made of, where it is not the fastest that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Whole units and no waiting.
    Plain,
    /// Whole units, with barriers in the loops.
    Waiting,
    /// Whole units of several lanes an invocation.
    Spans,
    /// Rows that share units, every element stored by itself.
    ByElement,
    /// The same, without a mask where units lie within the row.
    MiddlesApart,
}

/// Dispatches that do what an operation must at least.
pub struct Floor {
    kernels: Vec<(Kernel, wgpu::ComputePipeline)>,
}

/// A floor over two tensors that are read and one that is written.
pub struct BoundFloor<'a> {
    dispatches: Vec<(&'a wgpu::ComputePipeline, wgpu::BindGroup, [u32; 2])>,
}

impl Floor {
    fn new(gpu: &Gpu, kernels: Vec<Kernel>) -> Self {
        let compiled = kernels.into_iter().map(|kernel| {
            let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: None,
                source: wgpu::ShaderSource::Wgsl(kernel.text.into()),
            });
            let entry = |binding, read_only| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            };
            let bind_group_layout = gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &[entry(0, true), entry(1, true), entry(2, false)],
            });
            let layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&bind_group_layout)],
                immediate_size: 0,
            });
            let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &kernel.constants,
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
            (kernel, pipeline)
        });
        Self { kernels: compiled.collect() }
    }

    /// One floor of a kind; `None` where the shape or the operation has none.
    pub fn of(gpu: &Gpu, operation: Operation, dims: Dims, layout: Layout, which: Which) -> Option<Self> {
        let walks = operation.walks()?;
        let (walk, shares) = walk(dims, layout);
        let waits = which == Which::Waiting;
        let kernels = match which {
            Which::Plain | Which::Waiting => {
                let walk = walk?;
                let lone = !walk.side_by_side && walk.extent <= 512;
                let (size, positions) = match (walk.side_by_side, lone) {
                    (true, _) => (64, walk.positions(64)[0]),
                    (false, lone) => (8, if lone { 1 } else { walk.positions(8)[1] }),
                };
                let whole = walk.kernel(size, positions, None, waits, walks);
                match (walks, whole.groups >= 4) {
                    (_, true) | ([0, _], _) => vec![whole],
                    ([summed, mapped], false) => [[summed, 0], [0, mapped]]
                        .map(|walks| walk.kernel(size, positions, Some(64), waits, walks))
                        .into(),
                }
            }
            Which::Spans => {
                let walk = walk?;
                let whole = walk.kernel_of_spans(None, walks).filter(|whole| whole.groups >= 4);
                let [summed, mapped] = walks;
                let halves = [[summed, 0], [0, mapped]].into_iter().filter(|walks| *walks != [0, 0]);
                let halves = || halves.filter_map(|walks| walk.kernel_of_spans(Some(256), walks)).collect();
                let kernels: Vec<_> = whole.map_or_else(halves, |whole| vec![whole]);
                if kernels.is_empty() {
                    return None;
                }
                kernels
            }
            Which::ByElement | Which::MiddlesApart => {
                let usable = shares && dims.iter().product::<usize>().is_multiple_of(4);
                vec![usable.then(|| shared_kernel(dims, which == Which::MiddlesApart, walks))?]
            }
        };
        Some(Self::new(gpu, kernels))
    }

    /// The fastest floors of a shape, of one dispatch and of two, by whole units and by elements.
    pub fn fastest(
        gpu: &Gpu,
        timer: &Timer<'_>,
        operation: Operation,
        dims: Dims,
        layout: Layout,
        set: &Buffers,
    ) -> Vec<Self> {
        let Some(walks @ [summed, mapped]) = operation.walks() else { return Vec::new() };
        let (walk, _) = walk(dims, layout);
        let fastest = |kernels: Vec<Kernel>| {
            let floors: Vec<Self> = kernels.into_iter().map(|kernel| Self::new(gpu, vec![kernel])).collect();
            let bounds: Vec<BoundFloor<'_>> = floors.iter().map(|floor| floor.bind(gpu, set)).collect();
            let mut records: Vec<Record<'_>> = Vec::new();
            for bound in &bounds {
                records.push(Box::new(|_, pass| bound.record(pass)));
            }
            let times = timer.alternate(0.003, 5, 1, &records);
            let best = (0..times.len()).min_by(|one, other| times[*one].time.total_cmp(&times[*other].time))?;
            drop(records);
            drop(bounds);
            floors.into_iter().nth(best)
        };
        let mut found = Vec::new();
        if let Some(walk) = walk {
            found.extend(fastest(walk.kernels(walks)));
            if summed > 0 {
                let halves = [fastest(walk.kernels([summed, 0])), fastest(walk.kernels([0, mapped]))];
                found.push(Self { kernels: halves.into_iter().flatten().flat_map(|floor| floor.kernels).collect() });
            }
        }
        let by_element = [Which::ByElement, Which::MiddlesApart];
        found.extend(by_element.into_iter().filter_map(|which| Self::of(gpu, operation, dims, layout, which)));
        found
    }

    /// `Workgroup size` x `trips of an invocation`, `w` where it waits, or x `rows` of so many lanes, for every dispatch.
    pub fn name(&self) -> String {
        self.kernels.iter().map(|(kernel, _)| &*kernel.name).collect::<Vec<_>>().join(" / ")
    }

    pub fn dispatch_count(&self) -> usize {
        self.kernels.len()
    }

    pub fn bind(&self, gpu: &Gpu, set: &Buffers) -> BoundFloor<'_> {
        let dispatches = self.kernels.iter().map(|(kernel, pipeline)| {
            let entry =
                |binding, buffer| wgpu::BindGroupEntry { binding, resource: wgpu::Buffer::as_entire_binding(buffer) };
            let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &[entry(0, &set.input), entry(1, &set.output_gradient), entry(2, &set.output)],
            });
            let width = kernel.groups.min(65535);
            (pipeline, bind_group, [width as u32, kernel.groups.div_ceil(width) as u32])
        });
        BoundFloor { dispatches: dispatches.collect() }
    }
}

impl BoundFloor<'_> {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        for (pipeline, bind_group, [width, height]) in &self.dispatches {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(*width, *height, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a walk's lanes take, unit by unit.
    fn taken(walk: Walk) -> Vec<u64> {
        let lane = |lane| {
            (0..walk.extent).map(move |index| lane * walk.run + index % walk.run + index / walk.run * walk.distance)
        };
        let mut units: Vec<u64> = (0..walk.all_lanes).flat_map(lane).collect();
        units.sort_unstable();
        units
    }

    #[test]
    fn walks_take_every_unit_once() {
        use Layout::{ChannelsFirst, ChannelsLast};
        let cases = [
            ([3, 8, 7, 7], ChannelsFirst, Some([2, 147]), true),
            ([3, 6, 7, 7], ChannelsFirst, None, true),
            ([3, 6, 8, 2], ChannelsFirst, Some([6, 12]), false),
            ([3, 8, 7, 7], ChannelsLast, Some([2, 147]), false),
            ([4, 6, 5, 5], ChannelsLast, Some([3, 50]), false),
            ([4, 3, 2, 2], ChannelsFirst, Some([3, 4]), false),
            ([1, 3, 5, 1], ChannelsLast, None, false),
        ];
        for (dims, layout, expected, expected_sharing) in cases {
            let (walk, shares) = walk(dims, layout);
            assert_eq!(
                (walk.map(|walk| [walk.all_lanes, walk.extent]), shares),
                (expected, expected_sharing),
                "{dims:?}"
            );
            let units = dims.iter().product::<usize>() as u64 / 4;
            assert!(walk.is_none_or(|walk| taken(walk) == (0..units).collect::<Vec<_>>()), "{dims:?}");
        }
    }

    #[test]
    fn kernels_of_both_walks_take_whole_lanes_and_others_are_cut() {
        let (walk, _) = walk([32, 256, 14, 14], Layout::ChannelsLast);
        let walk = walk.unwrap();
        let names =
            |walks| walk.kernels(walks).into_iter().map(|kernel| (kernel.name, kernel.groups)).collect::<Vec<_>>();
        let whole = names([1, 1]);
        let by_lanes = [("8x1568".into(), 8), ("16x1568".into(), 4), ("64x1568".into(), 1), ("64x1568w".into(), 1)];
        assert_eq!(whole[..4], by_lanes);
        // All rows, twice, are more turns of a loop than every driver makes.
        assert_eq!(whole.len(), 4);
        let maps = names([0, 1]);
        assert_eq!(maps.len(), 4 * 4 + 2);
        assert!(maps.contains(&("8x64 rows of 8".into(), 98)), "{maps:?}");
        assert!(maps.contains(&("8x16".into(), 8 * 98)) && maps.contains(&("64x64w".into(), 25)), "{maps:?}");
    }
}
