// What is stored per unit: the input gradient.

struct Mapped {
    dx: vec4<f32>,
}

fn result_of(dx: vec4<f32>, h: vec4<f32>) -> Mapped {
    return Mapped(dx);
}
