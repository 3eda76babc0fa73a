// The yardstick: every byte read once and written once, sixteen at a time. Depends on `Unit`.

@group(0) @binding(0)
var<storage, read> source: array<Unit>;
@group(0) @binding(1)
var<storage, read_write> target_: array<Unit>;

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
    for (var block = 0u; block < BLOCKS; block++) {
        if unit + 3u * WORKGROUP_SIZE < units {
            let a = source[unit];
            let b = source[unit + WORKGROUP_SIZE];
            let c = source[unit + 2u * WORKGROUP_SIZE];
            let d = source[unit + 3u * WORKGROUP_SIZE];
            target_[unit] = a;
            target_[unit + WORKGROUP_SIZE] = b;
            target_[unit + 2u * WORKGROUP_SIZE] = c;
            target_[unit + 3u * WORKGROUP_SIZE] = d;
        } else {
            for (var other = unit; other < min(units, unit + 4u * WORKGROUP_SIZE); other += WORKGROUP_SIZE) {
                target_[other] = source[other];
            }
        }
        unit += 4u * WORKGROUP_SIZE;
    }
}
