// What is stored per unit: the input gradient, and the gradient before the activation, which is that of the residual.

struct Mapped {
    dx: vec4<f32>,
    dz: vec4<f32>,
}

fn result_of(dx: vec4<f32>, h: vec4<f32>) -> Mapped {
    return Mapped(dx, h);
}
