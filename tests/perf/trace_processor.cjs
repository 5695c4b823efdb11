// Asks Perfetto's own trace processor: node trace_processor.cjs FOLDER TRACE < queries.json > answers.json
//
// FOLDER holds the processor as Perfetto's page has it: engine_bundle.js and trace_processor.wasm. The bundle is
// written for a browser's worker, so it runs in a context that looks like one. One speaks to it in messages of
// protos/perfetto/trace_processor/trace_processor.proto, of which the few that are needed are written here by hand.
"use strict";
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const APPEND = 1, FINALIZE = 2, QUERY = 3; // TraceProcessorRpc.TraceProcessorMethod
const CHUNK = 1 << 20;

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Buffer.from([...bytes, value]);
}

function field(number, value) {
  if (typeof value === "number") return Buffer.concat([varint(number * 8), varint(value)]);
  return Buffer.concat([varint(number * 8 + 2), varint(value.length), value]);
}

// The fields of a message in order: [number, value], where a value is a BigInt, a Buffer, or 8 bytes of a double.
function* fields(bytes) {
  let at = 0;
  const next = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = Number(next());
    if (key % 8 === 0) yield [key >> 3, next()];
    else {
      const length = key % 8 === 1 ? 8 : Number(next());
      yield [key >> 3, bytes.subarray(at, (at += length))];
    }
  }
}

function* varints(value) {
  if (typeof value === "bigint") yield value;
  else for (let at = 0; at < value.length; ) {
    const from = at;
    while (value[at++] > 127);
    yield [...fields(Buffer.concat([Buffer.from([8]), value.subarray(from, at)]))][0][1];
  }
}

// QueryResult: names of columns, and batches of cells whose values lie sorted by type.
function addResult(bytes, result) {
  for (const [number, value] of fields(bytes)) {
    if (number === 1) result.columns.push(value.toString());
    if (number === 2) throw new Error(value.toString());
    if (number !== 3) continue;
    const types = [], numbers = [], doubles = [], strings = [];
    for (const [kind, cells] of fields(value)) {
      if (kind === 1) types.push(...varints(cells));
      if (kind === 2) numbers.push(...varints(cells));
      if (kind === 3) for (let at = 0; at < cells.length; at += 8) doubles.push(cells.readDoubleLE(at));
      if (kind === 5) strings.push(...cells.toString().split("\0"));
      if (kind === 6) result.complete = true;
    }
    for (const type of types)
      result.cells.push([null, null, () => Number(BigInt.asIntN(64, numbers.shift())), () => doubles.shift(),
        () => strings.shift()][Number(type)]?.() ?? null);
  }
}

function start(folder) {
  class XMLHttpRequest {
    open(_, name) {
      const { buffer, byteOffset, length } = fs.readFileSync(path.join(folder, path.basename(name)));
      this.response = buffer.slice(byteOffset, byteOffset + length);
    }
    send() {}
  }
  const silent = { log() {}, warn() {}, error() {} };
  const location = { href: "http://localhost/engine_bundle.js" };
  const worker = { console: silent, location, performance, crypto, setTimeout, TextDecoder, URL, XMLHttpRequest };
  worker.self = worker;
  worker.WorkerGlobalScope = Object;
  vm.createContext(worker);
  vm.runInContext(fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8"), worker);
  return worker;
}

async function main(folder, trace) {
  const worker = start(folder);
  let answer;
  const port = { postMessage: (bytes) => answer(Buffer.from(bytes)) };
  worker.onmessage({ data: port });
  const Bytes = vm.runInContext("Uint8Array", worker);
  await new Promise((resolve) => setTimeout(resolve)); // it begins in a promise
  let seq = 0;
  const send = (method, args) => {
    const rpc = Buffer.concat([field(1, seq++), field(2, method), args]);
    port.onmessage({ data: Bytes.from(field(1, rpc)) });
  };
  let result;
  answer = (stream) => {
    for (const [, rpc] of fields(stream))
      for (const [number, value] of fields(rpc)) {
        if (number === 5) throw new Error(value.toString());
        if (number === 203) addResult(value, result);
        if (number === 201 || number === 212)
          for (const [kind, error] of fields(value)) if (kind === (number === 201 ? 2 : 1)) throw new Error(error.toString());
      }
  };
  const bytes = fs.readFileSync(trace);
  for (let at = 0; at < bytes.length; at += CHUNK) send(APPEND, field(101, bytes.subarray(at, at + CHUNK)));
  send(FINALIZE, Buffer.alloc(0));
  const rows = JSON.parse(fs.readFileSync(0, "utf8")).map((sql) => {
    result = { columns: [], cells: [], complete: false };
    send(QUERY, field(103, field(1, Buffer.from(sql))));
    if (!result.complete) throw new Error(`no answer to ${sql}`);
    const width = result.columns.length;
    return Array.from({ length: result.cells.length / width }, (_, row) =>
      Object.fromEntries(result.columns.map((name, column) => [name, result.cells[row * width + column]])));
  });
  process.stdout.write(JSON.stringify(rows));
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
