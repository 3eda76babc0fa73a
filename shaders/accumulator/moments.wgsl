// Mergeable statistics: count, sum relative to a pivot, and the sum of squared deviations from the mean (M2).
// A sum is merged by one addition; a mean would be rounded by a product and a division at every merge.
// The four components are four independent sets.

struct Accumulator {
    pivot: vec4<f32>,
    count: vec4<f32>,
    sum: vec4<f32>,
    m2: vec4<f32>,
}

var<workgroup> sh_pivot: array<vec4<f32>, WORKGROUP_SIZE>;
var<workgroup> sh_count: array<vec4<f32>, WORKGROUP_SIZE>;
var<workgroup> sh_sum: array<vec4<f32>, WORKGROUP_SIZE>;
var<workgroup> sh_m2: array<vec4<f32>, WORKGROUP_SIZE>;

/// Chan, Golub and LeVeque's pairwise merge; both sides share a pivot, either side may be empty.
fn merge(a: Accumulator, b: Accumulator) -> Accumulator {
    return merge_known_mean(a, b, b.sum / max(b.count, vec4<f32>(1.0)));
}

/// As `merge`, for a caller who has the mean of `b` already.
fn merge_known_mean(a: Accumulator, b: Accumulator, mean_b: vec4<f32>) -> Accumulator {
    let one = vec4<f32>(1.0);
    let count = a.count + b.count;
    let delta = mean_b - a.sum / max(a.count, one);
    let weight = a.count * (b.count / max(count, one));
    return Accumulator(a.pivot, count, a.sum + b.sum, a.m2 + (b.m2 + delta * delta * weight));
}

fn store_shared(index: u32, value: Accumulator) {
    sh_pivot[index] = value.pivot;
    sh_count[index] = value.count;
    sh_sum[index] = value.sum;
    sh_m2[index] = value.m2;
}

fn load_shared(index: u32) -> Accumulator {
    return Accumulator(sh_pivot[index], sh_count[index], sh_sum[index], sh_m2[index]);
}

fn record_of(value: Accumulator, component: u32) -> Record {
    return Record(value.count[component], value.pivot[component], value.sum[component], value.m2[component]);
}

fn from_records(x: Record, y: Record, z: Record, w: Record) -> Accumulator {
    return Accumulator(
        vec4<f32>(x.y, y.y, z.y, w.y),
        vec4<f32>(x.x, y.x, z.x, w.x),
        vec4<f32>(x.z, y.z, z.z, w.z),
        vec4<f32>(x.w, y.w, z.w, w.w),
    );
}

/// The set of one component of a shared accumulator, counted through all of them.
fn load_shared_record(index: u32) -> Record {
    let at = index / 4u;
    let component = index % 4u;
    return Record(sh_count[at][component], sh_pivot[at][component], sh_sum[at][component], sh_m2[at][component]);
}

/// Workgroup memory seen as room for two records an invocation.
fn store_record(index: u32, value: Record) {
    if index < WORKGROUP_SIZE {
        sh_pivot[index] = value;
    } else {
        sh_count[index - WORKGROUP_SIZE] = value;
    }
}

fn load_record(index: u32) -> Record {
    if index < WORKGROUP_SIZE {
        return sh_pivot[index];
    }
    return sh_count[index - WORKGROUP_SIZE];
}

/// The merge of the four components, in all four components. They must share a pivot.
fn merge_components(value: Accumulator) -> Accumulator {
    let pairs = merge(
        value,
        Accumulator(value.pivot, value.count.zwxy, value.sum.zwxy, value.m2.zwxy),
    );
    let both = record_of(merge(pairs, Accumulator(pairs.pivot, pairs.count.yxwz, pairs.sum.yxwz, pairs.m2.yxwz)), 0u);
    return from_records(both, both, both, both);
}

/// Of nothing, with the same pivot.
fn emptied(value: Accumulator) -> Accumulator {
    return Accumulator(value.pivot, vec4<f32>(), vec4<f32>(), vec4<f32>());
}
