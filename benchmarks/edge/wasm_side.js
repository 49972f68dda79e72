/* The C file as WebAssembly, in Node: answers the requests of `sides.py`. */
"use strict";

const fs = require("fs");
const path = require("path");
const readline = require("readline");

const UNTIMED = 5;
const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

let program, facts, values, size;

function open(request) {
  const wasm = new WebAssembly.Module(fs.readFileSync(request.open));
  program = new WebAssembly.Instance(wasm).exports;
  facts = JSON.parse(fs.readFileSync(path.join(request.windows, "windows.json")));
  const bytes = fs.readFileSync(path.join(request.windows, "values.f32"));
  values = new Float32Array(new Uint8Array(bytes).buffer);
  size = values.length / facts.count;
  const positions = Object.values(facts.modalities).map((shape) => product(shape.slice(0, -1)));
  const masks = positions.reduce((a, b) => a + b, 0);
  new Uint8Array(program.memory.buffer, program.masks(), masks).fill(1);
  return { node: process.version };
}

/* Copies a window into the memory of the program and runs it. */
function run(index) {
  const window = values.subarray(index * size, (index + 1) * size);
  new Float32Array(program.memory.buffer, program.values(), size).set(window);
  const code = program.run((1 << Object.keys(facts.modalities).length) - 1);
  if (code) throw new Error(`window ${index} is refused with code ${code}`);
  return new Float32Array(program.memory.buffer, program.outputs(), facts.outputs);
}

/* Seconds of a call: wall-clock time, and CPU time of all threads of the process. */
function timed(calls) {
  for (let i = 0; i < Math.min(UNTIMED, calls); i++) run(i % facts.count);
  const cpu = process.cpuUsage(), wall = process.hrtime.bigint();
  for (let i = 0; i < calls; i++) run(i % facts.count);
  const nanoseconds = Number(process.hrtime.bigint() - wall), { user, system } = process.cpuUsage(cpu);
  return { wall: nanoseconds / 1e9 / calls, cpu: (user + system) / 1e6 / calls };
}

function answer(request) {
  if ("open" in request) return open(request);
  const count = Object.keys(facts.modalities).length;
  new Int32Array(program.memory.buffer, program.k(), count).fill(request.k);
  if ("calls" in request) return timed(request.calls);
  return Array.from({ length: facts.count }, (_, i) => Array.from(run(i)));
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  process.stdout.write(JSON.stringify(answer(JSON.parse(line))) + "\n");
});
