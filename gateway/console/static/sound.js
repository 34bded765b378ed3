// Runs in the audio thread: two processors, one that hands the microphone on and one that plays what arrives.

const PIECE = 960; // samples of the microphone in one message
const AHEAD_S = 0.08; // what waits before play-out begins, unless it is said: the network's unevenness
const MOST_S = 1.0; // what may wait at most

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
  }

  process(inputs) {
    const input = inputs[0][0];
    if (!input) return true;
    for (const sample of input) {
      this.piece[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled === PIECE) {
        this.port.postMessage(this.piece.buffer, [this.piece.buffer]);
        this.piece = new Int16Array(PIECE);
        this.filled = 0;
      }
    }
    return true;
  }
}

class Earpiece extends AudioWorkletProcessor {
  constructor(options) {
    super();
    this.step = options.processorOptions.rate / sampleRate; // of what arrives, for one sample here
    const { rate, ahead_s = AHEAD_S, most_s = MOST_S } = options.processorOptions;
    [this.ahead, this.most] = [ahead_s * rate, most_s * rate];
    this.pieces = [];
    this.waiting = 0; // samples
    this.at = 0; // in the first piece
    this.playing = false;
    this.last = 0;
    this.port.onmessage = ({ data }) => {
      this.pieces.push(new Int16Array(data));
      this.waiting += data.byteLength / 2;
      while (this.waiting > this.most && this.pieces.length > 1) this.drop();
    };
  }

  drop() {
    this.waiting -= this.pieces.shift().length;
    this.at = 0;
  }

  process(inputs, outputs) {
    const output = outputs[0][0];
    if (!this.playing && this.waiting >= this.ahead) this.playing = true;
    if (!this.playing) return true;
    for (let i = 0; i < output.length; i++) {
      while (this.pieces.length && this.at >= this.pieces[0].length) {
        this.at -= this.pieces[0].length;
        this.waiting -= this.pieces.shift().length;
      }
      if (!this.pieces.length) {
        this.playing = false; // and wait again until enough is there
        break;
      }
      const piece = this.pieces[0], index = Math.floor(this.at);
      const next = index + 1 < piece.length ? piece[index + 1] : (this.pieces[1] ? this.pieces[1][0] : piece[index]);
      output[i] = (piece[index] + (next - piece[index]) * (this.at - index)) / 32768;
      this.at += this.step;
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
registerProcessor("earpiece", Earpiece);
