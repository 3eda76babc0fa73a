// What is read of the tensors per trip: four units.

struct Block {
    a: Unit,
    b: Unit,
    c: Unit,
    d: Unit,
}
