// Where the sound goes: an AudioWorklet, or, in a browser without one, buffers that are put one after another.
export const RATE = 48000;

class WorkletOutput {
  static async open(context) {
    await context.audioWorklet.addModule("worklet.js");
    return new WorkletOutput(context);
  }

  constructor(context) {
    this.node = new AudioWorkletNode(context, "block-player", { numberOfInputs: 0, outputChannelCount: [2] });
    this.node.connect(context.destination);
    this.node.port.onmessage = ({ data }) => this.onreport?.(data);
  }

  feed({ left, right }) {
    const both = new Float32Array(2 * left.length);
    for (let i = 0; i < left.length; i++) {
      both[2 * i] = left[i];
      both[2 * i + 1] = right[i];
    }
    this.node.port.postMessage(both, [both.buffer]);
  }

  patience(seconds) {
    this.node.port.postMessage({ patience: seconds });
  }

  reset() {
    this.node.port.postMessage("reset");
  }
}

class BufferOutput {
  constructor(context) {
    Object.assign(this, { context, sources: [], until: 0, fed: 0, gaps: 0, gapSeconds: 0 });
    setInterval(() => this.report(), 50);
  }

  report() {
    const left = Math.max(0, this.until - this.context.currentTime);
    this.onreport?.({
      played: Math.max(0, this.fed - Math.round(left * RATE)), gaps: this.gaps, gapSeconds: this.gapSeconds, inHand: left,
    });
  }

  feed({ left, right }) {
    const { context } = this, buffer = context.createBuffer(2, left.length, RATE), source = context.createBufferSource();
    buffer.copyToChannel(left, 0);
    buffer.copyToChannel(right, 1);
    source.buffer = buffer;
    source.connect(context.destination);
    const now = context.currentTime;
    if (this.until < now) {
      if (this.until > 0) {
        this.gaps += 1;
        this.gapSeconds += now - this.until;
      }
      this.until = now + 0.2;
    }
    source.start(this.until);
    this.until += left.length / RATE;
    this.fed += left.length;
    this.sources.push(source);
    source.onended = () => this.sources.splice(this.sources.indexOf(source), 1);
  }

  patience() {}

  reset() {
    this.sources.forEach((source) => source.stop());
    this.until = 0;
  }
}

// { context, output, plain }: `plain` tells that there is no AudioWorklet here.
export async function openOutput() {
  const Context = window.AudioContext ?? window.webkitAudioContext;
  if (!Context) throw new Error("This browser makes no sound (it has no Web Audio).");
  const context = new Context({ sampleRate: RATE, latencyHint: "playback" });
  if (context.audioWorklet && window.AudioWorkletNode) {
    return { context, output: await WorkletOutput.open(context), plain: false };
  }
  return { context, output: new BufferOutput(context), plain: true };
}

// Blocks as a 16-bit WAV file.
export function wav(blocks) {
  const frames = blocks.reduce((sum, block) => sum + block.length / 2, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + 4 * frames, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 2, true);
  head.setUint32(24, RATE, true);
  head.setUint32(28, 4 * RATE, true);
  head.setUint16(32, 4, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, 4 * frames, true);
  return new Blob([head, ...blocks], { type: "audio/wav" });
}

// A block as interleaved 16-bit samples.
export function pcm({ left, right }) {
  const out = new Int16Array(2 * left.length);
  for (let i = 0; i < left.length; i++) {
    out[2 * i] = Math.round(32767 * Math.max(-1, Math.min(1, left[i])));
    out[2 * i + 1] = Math.round(32767 * Math.max(-1, Math.min(1, right[i])));
  }
  return out;
}
