// Runs beside the page's script: hands on the sound that passes, mixed to one channel.
class Tap extends AudioWorkletProcessor {
  process(inputs) {
    const channels = inputs[0];
    if (channels.length) {
      const mixed = new Float32Array(channels[0].length);
      for (const channel of channels) for (let i = 0; i < mixed.length; i++) mixed[i] += channel[i] / channels.length;
      this.port.postMessage(mixed, [mixed.buffer]);
    }
    return true;
  }
}
registerProcessor("tap", Tap);
