// Plays interleaved stereo blocks one after another; waits for some sound in hand at first and after a gap.

const PATIENCE = 0.25; // seconds in hand before it begins, where the server asks for no more
const MOST = 10; // seconds kept at most

class BlockPlayer extends AudioWorkletProcessor {
  constructor() {
    super();
    this.blocks = [];
    this.offset = 0; // frames of the first block that were played
    this.waiting = 0; // frames in hand
    this.patience = PATIENCE;
    this.running = false;
    this.begun = false;
    this.gaps = 0;
    this.gapFrames = 0;
    this.played = 0; // frames
    this.calls = 0;
    this.port.onmessage = ({ data }) => {
      if (data === "reset") {
        this.blocks = [];
        this.offset = this.waiting = 0;
        this.running = this.begun = false;
      } else if (data.patience !== undefined) {
        this.patience = Math.max(PATIENCE, data.patience);
      } else if (this.waiting < MOST * sampleRate) {
        this.blocks.push(data);
        this.waiting += data.length / 2;
      }
    };
  }

  process(_inputs, [[left, right]]) {
    if (!this.running && this.waiting >= this.patience * sampleRate) this.running = this.begun = true;
    let frame = 0;
    while (this.running && frame < left.length) {
      const block = this.blocks[0];
      if (block === undefined) {
        this.running = false;
        this.gaps += 1;
        break;
      }
      left[frame] = block[2 * this.offset];
      right[frame] = block[2 * this.offset + 1];
      frame += 1;
      this.offset += 1;
      this.waiting -= 1;
      if (2 * this.offset >= block.length) {
        this.blocks.shift();
        this.offset = 0;
      }
    }
    this.played += frame;
    if (this.begun && !this.running) this.gapFrames += left.length - frame;
    if (++this.calls % 16 === 0) {
      this.port.postMessage({
        played: this.played, gaps: this.gaps, gapSeconds: this.gapFrames / sampleRate,
        inHand: this.waiting / sampleRate,
      });
    }
    return true;
  }
}

registerProcessor("block-player", BlockPlayer);
