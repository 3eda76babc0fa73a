// Running statistics' step towards new ones.

/// weight_of_old · earlier + weight_of_new · latest: as a step from the one that weighs more, whose own digits all stay. Where their
/// difference is beyond f32 the sum is taken as it stands.
fn moving_average(earlier: f32, latest: f32, weight_of_old: f32, weight_of_new: f32) -> f32 {
    let difference = latest - earlier;
    let stepped = select(
        fma(-weight_of_old, difference, latest),
        fma(weight_of_new, difference, earlier),
        weight_of_new < weight_of_old,
    );
    return select(weight_of_old * earlier + weight_of_new * latest, stepped, is_finite(difference));
}
