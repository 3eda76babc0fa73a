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
    return Accumulator(a.pivot, count, a.sum + b.sum, a.m2 + b.m2 + delta * delta * weight);
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

/// One component of a set, in all four components.
fn component_of(value: Accumulator, component: u32) -> Accumulator {
    return Accumulator(
        vec4<f32>(value.pivot[component]),
        vec4<f32>(value.count[component]),
        vec4<f32>(value.sum[component]),
        vec4<f32>(value.m2[component]),
    );
}

/// The merge of the four components, in all four components. They must share a pivot.
fn merge_components(value: Accumulator) -> Accumulator {
    let pairs = merge(
        value,
        Accumulator(value.pivot, value.count.zwxy, value.sum.zwxy, value.m2.zwxy),
    );
    return merge(
        component_of(pairs, 0u),
        component_of(pairs, 1u),
    );
}
