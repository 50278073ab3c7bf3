// A picture and the sound of the last second, from whatever plays in a video element.

const SHORTER_SIDE = 400;

/** The sound of the last second, at 16 kHz; none where the browser or the source has none. */
export class SoundTap {
  constructor(samples) {
    this.last = new Float32Array(samples);
    this.heard = 0;
  }

  async listen(makeSource, audible) {
    this.context = new AudioContext({ sampleRate: 16000 });
    await this.context.audioWorklet.addModule("/page/sound.js");
    const source = makeSource(this.context);
    const tap = new AudioWorkletNode(this.context, "tap", { numberOfOutputs: 0 });
    tap.port.onmessage = (event) => this.#add(event.data);
    source.connect(tap);
    if (audible) source.connect(this.context.destination);
    await this.context.resume();
  }

  #add(block) {
    this.last.copyWithin(0, block.length);
    this.last.set(block, this.last.length - block.length);
    this.heard += block.length;
  }

  /** 16-bit samples, or null before a whole patch was heard. */
  patch() {
    if (this.heard < this.last.length) return null;
    return Int16Array.from(this.last, (value) => Math.max(-32768, Math.min(32767, Math.round(value * 32768))));
  }

  close() {
    this.context?.close();
  }
}

const canvas = document.createElement("canvas");

/** The picture that a video element shows, as a JPEG blob; null before there is any. */
export async function picture(video) {
  if (!video.videoWidth) return null;
  const scale = Math.min(1, SHORTER_SIDE / Math.min(video.videoWidth, video.videoHeight));
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

/** A frame as the service takes it: length of the header, header, JPEG, sound. */
export async function message(header, jpeg, sound) {
  const full = { ...header, picture_bytes: jpeg ? jpeg.size : 0, sound_samples: sound ? sound.length : 0 };
  const text = new TextEncoder().encode(JSON.stringify(full));
  const length = new Uint8Array(new Uint32Array([text.length]).buffer);
  const parts = [length, text];
  if (jpeg) parts.push(jpeg);
  if (sound) parts.push(sound);
  return new Blob(parts).arrayBuffer();
}
