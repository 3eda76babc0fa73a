// The other yardstick: every byte read once, one result per invocation. Depends on `Unit` and `numbers`.

@group(0) @binding(0)
var<storage, read> source: array<Unit>;
@group(0) @binding(1)
var<storage, read_write> target_: array<vec4<f32>>;

override WORKGROUP_SIZE: u32;
override BLOCKS: u32;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let units = arrayLength(&source);
    let group = workgroup.y * workgroups.x + workgroup.x;
    var unit = group * WORKGROUP_SIZE * 4u * BLOCKS + invocation;
    var sum = vec4<f32>();
    for (var block = 0u; block < BLOCKS; block++) {
        if unit + 3u * WORKGROUP_SIZE < units {
            sum += (numbers(source[unit]) + numbers(source[unit + WORKGROUP_SIZE]))
                + (numbers(source[unit + 2u * WORKGROUP_SIZE]) + numbers(source[unit + 3u * WORKGROUP_SIZE]));
        } else {
            for (var other = unit; other < min(units, unit + 4u * WORKGROUP_SIZE); other += WORKGROUP_SIZE) {
                sum += numbers(source[other]);
            }
        }
        unit += 4u * WORKGROUP_SIZE;
    }
    let result = group * WORKGROUP_SIZE + invocation;
    if result < arrayLength(&target_) {
        target_[result] = sum;
    }
}
