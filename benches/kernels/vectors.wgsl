// What a yardstick takes at once: sixteen bytes as four numbers.

alias Unit = vec4<f32>;

fn numbers(unit: Unit) -> vec4<f32> {
    return unit;
}
