// torch's normal numbers for a seed (float32, on a CPU, 16 or more at once): Mersenne twister, then Box and Muller.
export class Noise {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.at = 624;
    this.state[0] = Number(BigInt(seed) & 0xffffffffn);
    for (let i = 1; i < 624; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = (Math.imul(before, 1812433253) + i) >>> 0;
    }
  }

  next() {
    const s = this.state;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
        s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = s[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  uniform() {
    return (this.next() & 0xffffff) / 0x1000000;
  }

  // `count` of them, a Float32Array.
  normal(count) {
    if (count < 16) throw new RangeError(`noise of ${count}: 16 or more are drawn at once`);
    const out = new Float32Array(count);
    for (let i = 0; i < count; i++) out[i] = this.uniform();
    const fill = (from) => {
      for (let j = from; j < from + 8; j++) {
        const radius = Math.sqrt(-2 * Math.log(1 - out[j])), angle = 2 * Math.PI * out[j + 8];
        out[j] = radius * Math.cos(angle);
        out[j + 8] = radius * Math.sin(angle);
      }
    };
    for (let i = 0; i + 16 <= count; i += 16) fill(i);
    if (count % 16) {
      for (let i = count - 16; i < count; i++) out[i] = this.uniform();
      fill(count - 16);
    }
    return out;
  }

  // As the pipeline draws a block: frame after frame, then channel by channel: `(channels, frames)`.
  block(channels, frames, sigma) {
    const drawn = this.normal(channels * frames), out = new Float32Array(drawn.length);
    for (let frame = 0; frame < frames; frame++)
      for (let channel = 0; channel < channels; channel++)
        out[channel * frames + frame] = Math.fround(sigma * drawn[frame * channels + channel]);
    return out;
  }
}
