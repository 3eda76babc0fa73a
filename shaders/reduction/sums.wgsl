// Sums of the gradient and of the gradient times the normalised input. The four components are four independent sets.

struct Accumulator {
    normalizer: Normalizer,
    sum: vec4<f32>,
    product: vec4<f32>,
}

var<workgroup> sh_sum: array<vec4<f32>, WORKGROUP_SIZE>;
var<workgroup> sh_product: array<vec4<f32>, WORKGROUP_SIZE>;

/// The normaliser only serves accumulation, so any side's will do.
fn merge(a: Accumulator, b: Accumulator) -> Accumulator {
    return Accumulator(a.normalizer, a.sum + b.sum, a.product + b.product);
}

fn store_shared(index: u32, value: Accumulator) {
    sh_sum[index] = value.sum;
    sh_product[index] = value.product;
}

fn load_shared(index: u32) -> Accumulator {
    return Accumulator(Normalizer(), sh_sum[index], sh_product[index]);
}

/// One component of a set, in all four components.
fn component_of(value: Accumulator, component: u32) -> Accumulator {
    return Accumulator(value.normalizer, vec4<f32>(value.sum[component]), vec4<f32>(value.product[component]));
}

/// The merge of the four components, in all four components.
fn merge_components(value: Accumulator) -> Accumulator {
    let sums = value.sum.xy + value.sum.zw;
    let products = value.product.xy + value.product.zw;
    return Accumulator(value.normalizer, vec4<f32>(sums.x + sums.y), vec4<f32>(products.x + products.y));
}
