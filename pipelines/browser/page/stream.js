// One stream of music from the three graphs: noise to latents against what was played, latents to sound.
// `pipelines/browser/page_stream.py` is the same in Python.

export const GRAPHS = ["conditions", "flow", "codec_decoder"];
const ARRAYS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array };

// The part of an array at one place of an axis.
function taken({ data, dims }, axis, place) {
  const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1);
  const outer = dims.slice(0, axis).reduce((a, b) => a * b, 1);
  const out = new Float32Array(outer * inner);
  for (let row = 0; row < outer; row++) {
    const from = (row * dims[axis] + place) * inner;
    out.set(data.subarray(from, from + inner), row * inner);
  }
  return { data: out, dims: [...dims.slice(0, axis), ...dims.slice(axis + 1)] };
}

export class Stream {
  // ort: onnxruntime-web. sessions: by the names of GRAPHS. settings: what model.json says.
  constructor(ort, sessions, settings) {
    Object.assign(this, { ort, sessions, settings, frame: 0 });
    const [layers, rows, heads, width] = settings.cache_shape;
    this.tokens = settings.block_frames / settings.patch_size;
    this.slots = settings.cache_blocks * this.tokens;
    this.pastDims = [layers, rows, heads, this.slots, width];
    const size = this.pastDims.reduce((a, b) => a * b, 1);
    this.keys = new Float32Array(size);
    this.values = new Float32Array(size);
    this.heard = new Uint8Array(this.slots);
    this.decoderState = Object.fromEntries(settings.decoder_state.map(({ name, shape, type }) =>
      [name, new ort.Tensor(type, new ARRAYS[type](shape.reduce((a, b) => a * b, 1)), shape)]));
  }

  tensor(data, dims) {
    return new this.ort.Tensor("float32", data, dims);
  }

  // What was played goes one block back, and the block's own joins it.
  remember(past, own) {
    const width = this.pastDims[4], row = this.slots * width, block = this.tokens * width;
    for (let at = 0, from = 0; at < past.length; at += row, from += block) {
      past.copyWithin(at, at + block, at + row);
      past.set(own.subarray(from, from + block), at + row - block);
    }
  }

  // Noise (channels, frames), style, features (frames, feature_dim) -> { left, right, latents }
  async block(noise, style, told) {
    const { settings, sessions } = this, { channels, block_frames: frames, times } = settings;
    const position = new this.ort.Tensor("int64", BigInt64Array.of(BigInt(this.frame)), [1]);
    const { clean_modulation: clean, modulation, head, bends, bent, ...shared } = await sessions.conditions.run({
      lead_sheet: this.tensor(told, [1, frames, settings.feature_dim]), style: this.tensor(style, [1, style.length]),
      position,
    });
    const past = {
      past_keys: this.tensor(this.keys, this.pastDims), past_values: this.tensor(this.values, this.pastDims),
      past_heard: new this.ort.Tensor("bool", this.heard, [this.slots]),
    };
    const at = (array, axis, place) => {
      const { data, dims } = taken(array, axis, place);
      return this.tensor(data, dims);
    };
    const dims = [1, channels, frames], state = Float32Array.from(noise);
    for (let step = 0; step + 1 < times.length; step++) {
      const length = Math.fround(Math.fround(times[step + 1]) - Math.fround(times[step]));
      const { velocity } = await sessions.flow.run({
        sample: this.tensor(state, dims), modulation: at(modulation, 2, step), head: at(head, 1, step), ...shared, ...past,
      });
      for (let i = 0; i < state.length; i++) state[i] += length * velocity.data[i];
    }
    if (bends) {  // of the last latents, as much as is bent
      const first = settings.latent_dim * frames - bends.size;
      for (let i = 0; i < bends.size; i++) state[first + i] += bent.data[i] * (bends.data[i] - state[first + i]);
    }
    const zeros = ({ dims: shape, size }) => this.tensor(new Float32Array(size), shape);
    const own = await sessions.flow.run({
      ...shared, ...past, sample: this.tensor(state, dims), lead_sheet_states: zeros(shared.lead_sheet_states),
      style_values: zeros(shared.style_values), modulation: clean, head: at(head, 1, 0),
    });
    this.remember(this.keys, own.keys.data);
    this.remember(this.values, own.values.data);
    this.heard.copyWithin(0, this.tokens);
    this.heard.fill(1, this.slots - this.tokens);
    this.frame += frames;
    const latents = state.slice(0, settings.latent_dim * frames);
    const played = await sessions.codec_decoder.run({
      latents: this.tensor(latents, [1, settings.latent_dim, frames]), ...this.decoderState,
    });
    for (const name of Object.keys(this.decoderState)) this.decoderState[name] = played[`new_${name}`];
    const samples = played.audio.dims[2];
    const left = played.audio.data.slice(0, samples), right = played.audio.data.slice(samples, 2 * samples);
    return { left, right, latents };
  }
}
