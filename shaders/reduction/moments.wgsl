// Mergeable statistics: count, mean relative to a pivot, and the sum of squared deviations (M2).
// The four components are four independent sets.

struct Accumulator {
    pivot: vec4<f32>,
    count: vec4<f32>,
    mean: vec4<f32>,
    m2: vec4<f32>,
}

var<workgroup> sh_pivot: array<vec4<f32>, WORKGROUP_SIZE>;
var<workgroup> sh_count: array<vec4<f32>, WORKGROUP_SIZE>;
var<workgroup> sh_mean: array<vec4<f32>, WORKGROUP_SIZE>;
var<workgroup> sh_m2: array<vec4<f32>, WORKGROUP_SIZE>;

/// Chan, Golub and LeVeque's pairwise merge; both sides share a pivot, either side may be empty.
fn merge(a: Accumulator, b: Accumulator) -> Accumulator {
    let count = a.count + b.count;
    let delta = b.mean - a.mean;
    let weight = b.count / max(count, vec4<f32>(1.0));
    return Accumulator(
        a.pivot,
        count,
        a.mean + delta * weight,
        a.m2 + b.m2 + delta * delta * (a.count * weight),
    );
}

fn store_shared(index: u32, value: Accumulator) {
    sh_pivot[index] = value.pivot;
    sh_count[index] = value.count;
    sh_mean[index] = value.mean;
    sh_m2[index] = value.m2;
}

fn load_shared(index: u32) -> Accumulator {
    return Accumulator(sh_pivot[index], sh_count[index], sh_mean[index], sh_m2[index]);
}

/// One component of a set, in all four components.
fn component_of(value: Accumulator, component: u32) -> Accumulator {
    return Accumulator(
        vec4<f32>(value.pivot[component]),
        vec4<f32>(value.count[component]),
        vec4<f32>(value.mean[component]),
        vec4<f32>(value.m2[component]),
    );
}

/// The merge of the four components, in all four components. They must share a pivot.
fn merge_components(value: Accumulator) -> Accumulator {
    let pairs = merge(
        value,
        Accumulator(value.pivot, value.count.zwxy, value.mean.zwxy, value.m2.zwxy),
    );
    return merge(
        component_of(pairs, 0u),
        component_of(pairs, 1u),
    );
}
