// Where the sound goes: an AudioWorklet, or, in a browser without one, buffers that are put one after another.
export const RATE = 48000;

export function interleaved({ left, right }) {
  const both = new Float32Array(2 * left.length);
  for (let i = 0; i < left.length; i++) {
    both[2 * i] = left[i];
    both[2 * i + 1] = right[i];
  }
  return both;
}

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

  feed(block) {
    const both = interleaved(block);
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
