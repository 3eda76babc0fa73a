//! What compiling may cost, in numbers that are the same on every machine; `docs/performance.md` has times.

use std::collections::HashMap;

use naga::back::spv;
use naga::{Block, Function, Handle, Module, Statement};
use wgpu_batch_norm::shader::Variant;

// Bounds are an eighth or so above what there is, so that a kernel may grow a little and a multiple is seen.

/// Bytes of WGSL that wgpu parses.
const SOURCE: usize = 60_000;

/// Words of SPIR-V that a Vulkan driver is given, and much the same for what MSL and HLSL compilers are.
const WORDS: usize = 15_000;

/// Expressions once every call is expanded, as compilers of shaders do. The worst to compile of those that were measured is of the kind
/// with the most (`docs/performance.md`).
const EXPANDED: usize = 19_500;

/// The size of the middle pipeline, beside the largest.
const MEDIAN_EXPANDED: usize = 4_600;

fn statements(block: &Block, visit: &mut impl FnMut(&Statement)) {
    for statement in block {
        visit(statement);
        match statement {
            Statement::Block(inner) => statements(inner, visit),
            Statement::If { accept, reject, .. } => {
                statements(accept, visit);
                statements(reject, visit);
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| statements(&case.body, visit)),
            Statement::Loop { body, continuing, .. } => {
                statements(body, visit);
                statements(continuing, visit);
            }
            _ => {}
        }
    }
}

/// Expressions of a function with those of all that it calls, once for each call.
fn expanded(module: &Module, function: &Function, known: &mut HashMap<Handle<Function>, usize>) -> usize {
    let mut called = Vec::new();
    statements(&function.body, &mut |statement| {
        if let Statement::Call { function, .. } = statement {
            called.push(*function);
        }
    });
    let of_calls: usize = called
        .into_iter()
        .map(|handle| match known.get(&handle) {
            Some(size) => *size,
            None => {
                let size = expanded(module, &module.functions[handle], known);
                known.insert(handle, size);
                size
            }
        })
        .sum();
    function.expressions.len() + of_calls
}

#[test]
fn every_pipeline_keeps_the_compile_time_budget() {
    let size = |variant: Variant| {
        // Constants leave every branch in place, so that all pipelines of a variant are alike.
        let (module, info) = super::pipelines(variant).next().expect("a variant has a pipeline");
        let words = spv::write_vec(&module, &info, &spv::Options::default(), None).unwrap().len();
        (expanded(&module, &module.entry_points[0].function, &mut HashMap::new()), words, variant.name())
    };
    let mut sizes: Vec<_> = Variant::all().map(size).collect();
    sizes.sort();
    let (median, (most, _, largest)) = (&sizes[sizes.len() / 2], sizes.last().unwrap());
    let longest = sizes.iter().max_by_key(|(_, words, _)| *words).unwrap();
    let source = Variant::all().map(|variant| (variant.source().len(), variant.name())).max().unwrap();
    println!("expanded: {most} at most ({largest}), {} in the middle ({} words)", median.0, median.1);
    println!("{} words at most ({}), {} bytes of WGSL at most ({})", longest.1, longest.2, source.0, source.1);
    assert!(*most <= EXPANDED, "{largest}: {most} expressions once calls are expanded");
    assert!(median.0 <= MEDIAN_EXPANDED, "{}: {} expressions in the middle", median.2, median.0);
    assert!(longest.1 <= WORDS, "{}: {} words of SPIR-V", longest.2, longest.1);
    assert!(source.0 <= SOURCE, "{}: {} bytes of WGSL", source.1, source.0);
}
