// What is stored per unit: the output.

struct Mapped {
    y: vec4<f32>,
}

fn result_of(t: vec4<f32>) -> Mapped {
    return Mapped(activated(t));
}
