#!/usr/bin/env node
// Writes the batch norm of borch.ts as manifests, for `throughput --peer OUT`.
//
//     pip download --no-deps --dest target/peers pyborch==1.14.1
//     unzip -d target/peers target/peers/pyborch-1.14.1-py3-none-any.whl borch_webgpu/_borch.js
//     node benches/peers/borch.mjs target/peers/borch_webgpu/_borch.js OUT [--shape N,C,H,W]
//     cargo run --release --example throughput -- --layout first --peer OUT [--shape N,C,H,W]
//
// SOURCE is that bundle, or `borch-ts/dist/src/kernels.js` of a built checkout. Its functions are called as
// `batchNormEvalRaw`, `batchNormFused` and `batchNormImpl` of borch.ts call them, with their workgroups; nothing of
// borch.ts (Apache-2.0) is part of this repository. README.md tells which function makes which dispatch.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const SHAPES = [
  [32, 64, 56, 56], [32, 256, 14, 14], [32, 512, 7, 7], [8, 64, 112, 112], [1024, 512, 1, 1],
  [16, 3, 224, 224], [256, 32, 8, 8], [256, 2048, 1, 1], [20, 6, 256, 256], [1, 2048, 7, 7],
];
const NAMES = [
  "bnPieces", "lanesOf", "grid1d", "runningStats", "batchNormStats", "batchNormFinish", "batchNormApply",
  "batchNormStatsBackward", "batchNormFinishBackward", "batchNormBackwardApply",
];
const EPSILON = 1e-5;
const MOMENTUM = 0.1;

/** The functions of borch.ts that make kernels and grids. A bundle does not export them, so a copy of it is made to. */
async function load(source) {
  const text = readFileSync(source, "utf8");
  const hidden = NAMES.filter((name) => !new RegExp(`export function ${name}\\b`).test(text));
  if (hidden.length === 0) return import(pathToFileURL(source).href);
  const folder = mkdtempSync(join(tmpdir(), "borch-"));
  try {
    const copy = join(folder, "borch.mjs");
    writeFileSync(copy, `${text}\nexport { ${hidden.join(", ")} };\n`);
    return await import(pathToFileURL(copy).href);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The manifest of one shape, and the kernels it names. */
function manifest(borch, shape) {
  const [N, C, H, W] = shape;
  const S = H * W;
  const pieces = borch.bnPieces(N, S);
  const units = (N * C * S) / borch.lanesOf(S);
  const unbias = (N * S) / (N * S - 1);
  const files = {};
  const dispatch = (name, wgsl, workgroups, buffers) => {
    const file = `${shape.join("x")}_${name}.wgsl`;
    files[file] = wgsl;
    return { wgsl: file, entry_point: "main", workgroups, bindings: { ...buffers } };
  };
  const over = (count) => {
    const { x, y } = borch.grid1d(count);
    return [x, y, 1];
  };
  const apply = borch.batchNormApply(N, C, S, EPSILON, false, false);
  const operations = {
    training: [
      dispatch("stats", borch.batchNormStats(N, C, S), [C, pieces, 1], ["x", "part_mean", "part_m2"]),
      dispatch("finish", borch.batchNormFinish(N, C, S, EPSILON), over(C),
        ["part_mean", "part_m2", "batch_mean", "batch_variance", "batch_inverse"]),
      dispatch("apply", apply, over(units), ["x", "batch_mean", "batch_variance", "gamma", "beta", "y"]),
      dispatch("running", borch.runningStats(C, MOMENTUM, unbias), over(C),
        ["running_mean", "running_variance", "batch_mean", "batch_variance"]),
    ],
    inference: [
      dispatch("apply", apply, over(units), ["x", "frozen_mean", "frozen_variance", "gamma", "beta", "y"]),
    ],
    backward: [
      dispatch("stats_backward", borch.batchNormStatsBackward(N, C, S, false), [C, pieces, 1],
        ["x", "dy", "batch_mean", "batch_inverse", "part_g", "part_gxh"]),
      dispatch("finish_backward", borch.batchNormFinishBackward(N, C, S), over(C),
        ["part_g", "part_gxh", "dbeta", "dgamma"]),
      dispatch("backward_apply", borch.batchNormBackwardApply(N, C, S, false), over(units),
        ["x", "dy", "dbeta", "dgamma", "gamma", "batch_inverse", "batch_mean", "dx"]),
    ],
  };
  const scratch = Object.fromEntries([
    ...["part_mean", "part_m2", "part_g", "part_gxh"].map((name) => [name, 4 * C * pieces]),
    ...["batch_mean", "batch_variance", "batch_inverse"].map((name) => [name, 4 * C]),
  ]);
  return { manifest: { name: "borch.ts", shape, scratch, operations }, files };
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { shape: { type: "string", multiple: true } },
});
const [source, out] = positionals;
if (positionals.length !== 2) {
  console.error("usage: borch.mjs SOURCE OUT [--shape N,C,H,W]");
  process.exit(2);
}
const shapes = values.shape?.map((text) => text.split(",").map(Number)) ?? SHAPES;
const borch = await load(source);
mkdirSync(out, { recursive: true });
for (const shape of shapes) {
  const { manifest: described, files } = manifest(borch, shape);
  for (const [file, text] of Object.entries(files)) writeFileSync(join(out, file), text);
  writeFileSync(join(out, `${shape.join("x")}.json`), `${JSON.stringify(described, null, 1)}\n`);
}
