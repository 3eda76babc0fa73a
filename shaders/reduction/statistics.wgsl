// Batch statistics: what a reduction does with the input.

/// What sums are relative to.
struct Basis {
    pivot: vec4<f32>,
}

/// The pivot is the median of three samples inside the channel: near the data, and no single outlier can take it, nor can
/// outliers at both ends. Where the samples lie about as far from each other as from 0, the pivot is 0: it costs no
/// digits, and no rounding either. A range that one far sample makes does not count as such.
fn basis_of(place: Place, extent: Extent) -> Basis {
    let samples = samples_of(place, extent);
    let lowest = min(min(samples[0], samples[1]), samples[2]);
    let highest = max(max(samples[0], samples[1]), samples[2]);
    let median = max(min(samples[0], samples[1]), min(max(samples[0], samples[1]), samples[2]));
    let range = highest - lowest;
    let gap = min(median - lowest, highest - median);
    return Basis(select(median, vec4<f32>(), (abs(median) <= range) & (range <= 64.0 * gap)));
}

fn empty(basis: Basis) -> Accumulator {
    return Accumulator(basis.pivot, vec4<f32>(), vec4<f32>(), vec4<f32>());
}
