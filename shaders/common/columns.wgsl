// The columns family: the tensor as a matrix of super-rows, a lane is a unit column, its positions walk down.
//
// A super-row is the shortest run of whole outer steps that is a multiple of four elements, so the four components of a
// lane keep their channels from super-row to super-row. `inner` consecutive columns are a segment: one channel.

/// The channels of a lane's components.
fn column_channels(column_unit: u32) -> vec4<u32> {
    let columns = vec4<u32>(4u * column_unit) + vec4<u32>(0u, 1u, 2u, 3u);
    return (columns / params.inner) % params.channels;
}
