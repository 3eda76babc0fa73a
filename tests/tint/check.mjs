// Has Tint, Chrome's WGSL compiler, look at shaders: what browsers refuse and naga does not, above all barriers in control
// flow that is not uniform by the specification's own analysis.
//
//   node check.mjs FOLDER < shaders
//
// FOLDER is that of the npm package `webgpu`, which carries Dawn and with it Tint. Dawn's null backend needs no GPU and no
// driver. Each line of the input is {"name", "code", "pipelines": [constants, …]} in JSON.

import { createInterface } from "node:readline";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const { create, globals } = await import(pathToFileURL(resolve(process.argv[2], "index.js")));
Object.assign(globalThis, globals);
// Held on to: Dawn is torn down with it, adapter and device or not.
globalThis.gpu = create(["backend=null"]);
const adapter = await globalThis.gpu.requestAdapter();
const device = await adapter.requestDevice();
// Of what is checked after the WGSL: the null backend has no more than eight, and some shaders are for devices that do.
const countsBindings = /^The number of storage buffers/;

let modules = 0;
let pipelines = 0;
let bad = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const { name, code, pipelines: wanted } = JSON.parse(line);
  const said = [];
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code });
  said.push(...(await module.getCompilationInfo()).messages.map(({ message }) => message));
  if (!(await device.popErrorScope())) {
    for (const constants of wanted) {
      device.pushErrorScope("validation");
      device.createComputePipeline({ layout: "auto", compute: { module, constants } });
      const error = await device.popErrorScope();
      if (error && !countsBindings.test(error.message)) said.push(`${JSON.stringify(constants)}: ${error.message}`);
      pipelines += 1;
    }
  } else if (said.length === 0) {
    said.push("refused without a message");
  }
  modules += 1;
  if (said.length > 0) {
    bad += 1;
    console.log(`${name}: ${said.join("; ")}`);
  }
}
console.log(`Tint: ${modules} modules, ${pipelines} pipelines, ${bad} bad`);
// Dawn's threads would keep the process alive.
process.exit(bad === 0 ? 0 : 1);
