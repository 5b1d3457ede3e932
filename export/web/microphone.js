"use strict";
// Passes the samples of the microphone on, as they come.
registerProcessor("microphone", class extends AudioWorkletProcessor {
  process([[channel]]) {
    if (channel) this.port.postMessage(channel.slice());
    return true;
  }
});
