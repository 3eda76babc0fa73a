// Moments of the parts of a batch, part after part: count, pivot, offset, M2 a channel; the mean is pivot + offset.

@group(0) @binding(20)
var<storage, read> moments: array<vec4<u32>>;
