// Runs the model, so that the page stays responsive.
import * as ort from "./ort.wasm.min.mjs";

const SEGMENT = 15_600;

ort.env.wasm.wasmPaths = new URL("./", self.location).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;

const ready = (async () => {
  const response = await fetch("vggish.onnx");
  if (!response.ok) throw new Error(`vggish.onnx: ${response.status} ${response.statusText}`);
  const model = new Uint8Array(await response.arrayBuffer());
  // Restores the weights once and computes in float32, instead of with the 8-bit weights.
  return ort.InferenceSession.create(model, { extra: { session: { disable_quant_qdq: "1" } } });
})();

ready.then(() => postMessage({ ready: true }), (error) => postMessage({ problem: String(error.message || error) }));

let queue = ready;

self.onmessage = ({ data: { id, segments } }) => {
  queue = queue.then(() => run(id, segments)).catch((error) => postMessage({ id, problem: String(error.message || error) }));
};

async function run(id, segments) {
  const session = await ready;
  const waveform = new ort.Tensor("float32", segments, [segments.length / SEGMENT, SEGMENT]);
  const { embedding, log_mel: logMel } = await session.run({ waveform });
  const answer = { id, embeddings: new Float32Array(embedding.data), logMel: new Float32Array(logMel.data) };
  postMessage(answer, [answer.embeddings.buffer, answer.logMel.buffer]);
}
