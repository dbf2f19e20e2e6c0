/**
 * Streaming resampler between any two rates: windowed-sinc low-pass in polyphase form.
 *
 * Pure arithmetic, no audio API, so that the audio threads and the unit tests run the same code.
 * Output sample n stands at input time n * in/out; the filter's delay is already taken out, so the first output sample
 * belongs to the first input sample. Theory: Smith, "Digital Audio Resampling", https://ccrma.stanford.edu/~jos/resample/.
 */

/** Zero crossings of the sinc on each side; more is steeper. */
const ZERO_CROSSINGS = 16;
/** The pass band ends here, as a part of the lower Nyquist frequency. */
const ROLLOFF = 0.94;
/** Kaiser window shape: about 90 dB of stop-band attenuation. */
const KAISER_BETA = 9;

export class Resampler {
  readonly #up: number;
  readonly #down: number;
  readonly #half: number;
  readonly #phases: Float32Array[];
  /** Input samples still needed, starting `#half - 1` before the next output's position. */
  #history: Float32Array;
  /** Phase of the next output sample, in units of 1/up input samples. */
  #phase = 0;
  #taken = 0;
  #given = 0;

  constructor(
    readonly inputRate: number,
    readonly outputRate: number,
  ) {
    if (!Number.isInteger(inputRate) || !Number.isInteger(outputRate) || inputRate < 1 || outputRate < 1) {
      throw new RangeError(`sample rates must be positive whole numbers, not ${inputRate} and ${outputRate}`);
    }
    const divisor = gcd(inputRate, outputRate);
    this.#up = outputRate / divisor;
    this.#down = inputRate / divisor;
    const cutoff = 0.5 * ROLLOFF * Math.min(1, outputRate / inputRate);
    this.#half = inputRate === outputRate ? 1 : Math.ceil(ZERO_CROSSINGS / (2 * cutoff));
    this.#phases = inputRate === outputRate ? [] : filterBank(this.#up, this.#half, cutoff);
    this.#history = new Float32Array(this.#half - 1);
  }

  /** Takes samples of the input rate, gives those of the output rate that are ready. */
  process(input: Float32Array): Float32Array {
    if (this.#phases.length === 0) return input.slice();
    this.#taken += input.length;
    return this.#run(input);
  }

  /** Gives what is left in the filter: in all, ceil(taken * out / in) samples. The next call starts a new stream. */
  flush(): Float32Array {
    if (this.#phases.length === 0) return new Float32Array(0);
    const wanted = Math.ceil((this.#taken * this.#up) / this.#down) - this.#given;
    const tail = this.#run(new Float32Array(2 * this.#half)).subarray(0, Math.max(0, wanted));
    this.reset();
    return tail;
  }

  /** Forgets everything taken so far. */
  reset(): void {
    this.#history = new Float32Array(this.#half - 1);
    this.#phase = 0;
    this.#taken = 0;
    this.#given = 0;
  }

  #run(input: Float32Array): Float32Array {
    const taps = 2 * this.#half;
    const data = new Float32Array(this.#history.length + input.length);
    data.set(this.#history);
    data.set(input, this.#history.length);
    const last = data.length - taps;
    const count = last < 0 ? 0 : Math.floor((last * this.#up + this.#up - 1 - this.#phase) / this.#down) + 1;
    const output = new Float32Array(Math.max(0, count));
    let start = 0;
    for (let n = 0; n < output.length; n++) {
      const filter = this.#phases[this.#phase] as Float32Array;
      let sum = 0;
      for (let k = 0; k < taps; k++) sum += (filter[k] as number) * (data[start + k] as number);
      output[n] = sum;
      this.#phase += this.#down;
      start += Math.floor(this.#phase / this.#up);
      this.#phase %= this.#up;
    }
    this.#history = data.slice(start);
    this.#given += output.length;
    return output;
  }
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** One filter per phase, each `2 * half` taps and of unit gain at 0 Hz. */
function filterBank(phases: number, half: number, cutoff: number): Float32Array[] {
  return Array.from({ length: phases }, (_, phase) => {
    const filter = new Float32Array(2 * half);
    let gain = 0;
    for (let k = 0; k < filter.length; k++) {
      // Distance from the output's position; tap half-1 is the input sample just at or before it.
      const t = k - (half - 1) - phase / phases;
      filter[k] = sinc(2 * cutoff * t) * kaiser(t / half);
      gain += filter[k] as number;
    }
    return filter.map((tap) => tap / gain);
  });
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function kaiser(x: number): number {
  return Math.abs(x) >= 1 ? 0 : bessel0(KAISER_BETA * Math.sqrt(1 - x * x)) / bessel0(KAISER_BETA);
}

/** Modified Bessel function of the first kind, order 0, by its power series. */
function bessel0(x: number): number {
  let term = 1;
  let sum = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}
