// What is stored per unit: the output, and where the pre-activation is positive.

struct Mapped {
    y: vec4<f32>,
    positive: vec4<bool>,
}

fn result_of(t: vec4<f32>) -> Mapped {
    return Mapped(activated(t), t > vec4<f32>());
}
