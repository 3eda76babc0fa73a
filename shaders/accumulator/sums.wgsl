// Sums of the gradient before the activation and of it times the normalised input. The four components are four independent sets.

struct Accumulator {
    sum: vec4<f32>,
    product: vec4<f32>,
}

var<workgroup> sh_sum: array<vec4<f32>, WORKGROUP_SIZE>;
var<workgroup> sh_product: array<vec4<f32>, WORKGROUP_SIZE>;

fn merge(a: Accumulator, b: Accumulator) -> Accumulator {
    return Accumulator(a.sum + b.sum, a.product + b.product);
}

fn store_shared(index: u32, value: Accumulator) {
    sh_sum[index] = value.sum;
    sh_product[index] = value.product;
}

fn load_shared(index: u32) -> Accumulator {
    return Accumulator(sh_sum[index], sh_product[index]);
}

fn record_of(value: Accumulator, component: u32) -> Record {
    return Record(value.sum[component], value.product[component]);
}

fn from_records(x: Record, y: Record, z: Record, w: Record) -> Accumulator {
    return Accumulator(vec4<f32>(x.x, y.x, z.x, w.x), vec4<f32>(x.y, y.y, z.y, w.y));
}

/// The set of one component of a shared accumulator, counted through all of them.
fn load_shared_record(index: u32) -> Record {
    let at = index / 4u;
    let component = index % 4u;
    return Record(sh_sum[at][component], sh_product[at][component]);
}

/// Workgroup memory seen as room for two records an invocation.
fn store_record(index: u32, value: Record) {
    if index < WORKGROUP_SIZE {
        sh_sum[index] = vec4<f32>(value, 0.0, 0.0);
    } else {
        sh_product[index - WORKGROUP_SIZE] = vec4<f32>(value, 0.0, 0.0);
    }
}

fn load_record(index: u32) -> Record {
    if index < WORKGROUP_SIZE {
        return sh_sum[index].xy;
    }
    return sh_product[index - WORKGROUP_SIZE].xy;
}

/// The merge of the four components, in all four components.
fn merge_components(value: Accumulator) -> Accumulator {
    let sums = value.sum.xy + value.sum.zw;
    let products = value.product.xy + value.product.zw;
    return Accumulator(vec4<f32>(sums.x + sums.y), vec4<f32>(products.x + products.y));
}

/// Of nothing.
fn emptied(value: Accumulator) -> Accumulator {
    return Accumulator(vec4<f32>(), vec4<f32>());
}
