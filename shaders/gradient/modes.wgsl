// What becomes of a gradient tensor. A pipeline fixes it: what may add where it stores is twice the loads and stores on drivers
// that run both branches.

const OMITTED: u32 = 0u;
const ACCUMULATED: u32 = 2u;
