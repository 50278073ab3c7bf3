// One stream on the page: what it shows, what it sends, what it hears.

import { SoundTap, message, picture } from "/page/capture.js";
import { getPicture, open, sendFile } from "/page/socket.js";
import { Timeline, clock } from "/page/timeline.js";

const BARS = 10;
const BAR_PIXELS = 29;
const LEAST_ROWS = 3;
const KEPT_PICTURES = 300;
let streams = 0;

export class Stream {
  /**
   * @param {object} page nameOf, visible, speak, fail, closed
   * @param {string} title
   */
  constructor(page, title) {
    this.page = page;
    this.title = title;
    this.root = document.getElementById("stream-template").content.firstElementChild.cloneNode(true);
    this.video = this.root.querySelector("video");
    this.still = this.root.querySelector("img");
    this.$("h2").textContent = title;
    this.timeline = new Timeline(this.$(".timeline"), page.nameOf, (seconds) => this.jump(seconds));
    this.bars = new Map();
    this.number = ++streams;
    this.rows = LEAST_ROWS;
    this.pictures = new Map();
    this.credits = 0;
    this.skipped = 0;
    this.sequence = 0;
    this.lastSent = -1;
    this.viewed = null;
    this.arrivals = [];
    this.latencies = [];
    this.$(".stop").addEventListener("click", () => this.close());
    this.$(".back").addEventListener("click", () => this.live());
    this.$(".download").addEventListener("change", (event) => {
      if (event.target.value) this.download(event.target.value);
      event.target.value = "";
    });
  }

  $(selector) {
    return this.root.querySelector(selector);
  }

  /** Labels what a camera or a screen shows. */
  async watchMedia(media) {
    this.media = media;
    this.video.srcObject = media;
    media.getVideoTracks()[0]?.addEventListener("ended", () => this.close());
    await this.video.play();
    this.began = performance.now();
    await this.#connect(media.getAudioTracks().length ? (context) => context.createMediaStreamSource(media) : null, false);
  }

  /** Labels a file while it plays. */
  async watchFile(file) {
    this.url = URL.createObjectURL(file);
    this.isFile = true;
    this.video.src = this.url;
    this.video.controls = true;
    await new Promise((resolve, reject) => {
      this.video.addEventListener("loadeddata", resolve, { once: true });
      this.video.addEventListener("error", () => reject(new Error("this browser cannot play that file. “Whole file” lets the service read it.")), { once: true });
    });
    this.video.muted = false;
    this.video.addEventListener("ended", () => this.#say("played to its end"));
    this.video.addEventListener("seeked", () => this.#seeked());
    await this.#connect((context) => context.createMediaElementSource(this.video), true);
    await this.video.play();
  }

  /** Sends a whole file to the service, and shows its labels at the moment that plays. */
  async labelFile(file) {
    this.isFile = this.isWhole = true;
    this.sending = new AbortController();
    this.url = URL.createObjectURL(file);
    this.video.src = this.url;
    this.video.controls = true;
    this.video.muted = false;
    this.$(".numbers").hidden = true;
    this.$(".back").textContent = "all of it";
    this.video.addEventListener("error", () => (this.video.hidden = true));
    this.video.addEventListener("timeupdate", () => this.#view(this.video.currentTime));
    this.#say("sending…");
    try {
      await sendFile(`/label?progress=1&name=${encodeURIComponent(file.name)}`, file, this.sending.signal, (step) => {
        if (step.error) throw new Error(plain(step.error));
        if (step.progress) this.#say(`${clock(step.progress.seconds)} of ${clock(step.progress.of ?? step.progress.seconds)}`);
        if (step.result) this.#showWhole(step.result.annotationResults[0]);
      });
    } catch (error) {
      if (!this.done) throw error;
    }
  }

  #showWhole(result) {
    this.timeline.load(result);
    const scores = result.segmentLabelAnnotations.map(({ entity, segments }) => [Number(entity.entityId), segments[0].confidence]);
    this.last = { now: scores, seconds: 0 };
    const length = clock(parseFloat(result.segment.endTimeOffset));
    this.#say(result.error ? `labelled to ${length}: ${result.error.message}` : `${length} labelled`);
    for (const { entity } of result.labelTimeline.slice(0, BARS)) this.page.speak(entity.description);
    this.draw();
  }

  #view(seconds) {
    this.viewed = seconds;
    this.$(".back").hidden = false;
    this.draw();
  }

  /** Shows the labels of a stream that the service pulls itself. */
  watchPulled(name) {
    this.pulled = encodeURIComponent(name);
    this.video.hidden = true;
    for (const name of [".latency", ".skipped"]) this.$(name).parentElement.hidden = true; // nothing is sent from here
    this.socket = open(`/watch?stream=${this.pulled}`);
    this.#listen().catch(() => {}); // what went wrong is on the page already
  }

  async #connect(makeSource, audible) {
    this.socket = open("/live");
    const ready = this.#listen();
    const settings = await ready;
    if (settings.sound && makeSource) {
      this.sound = new SoundTap(settings.sound.samples);
      try {
        await this.sound.listen(makeSource, audible);
      } catch (error) {
        this.sound = null;
        this.page.fail(`Without sound: ${error.message}`);
      }
    }
    this.timer = setInterval(() => this.#send(settings), 1000 / settings.fps);
    this.keepAlive = setInterval(() => this.#command("KeepAlive"), 10000);
  }

  #listen() {
    return new Promise((resolve, reject) => {
      this.socket.addEventListener("message", (event) => {
        const heard = JSON.parse(event.data);
        if (heard.type === "Ready") {
          this.credits = heard.credits;
          this.#say("waiting for the first picture");
          resolve(heard);
        } else this.#hear(heard);
      });
      this.socket.addEventListener("open", () => this.#say("connected"));
      this.socket.addEventListener("close", (event) => {
        clearInterval(this.timer);
        this.#say(this.done ? "ended" : "connection lost");
        const why = event.reason || "The service is not there, or as many streams are open as it takes.";
        if (!this.done) this.page.fail(`${this.title}: ${why}`);
        reject(new Error(why));
      });
    });
  }

  async #send(settings) {
    if (this.socket.readyState !== WebSocket.OPEN || this.video.paused || this.video.ended) return;
    const seconds = this.isFile ? this.video.currentTime : (performance.now() - this.began) / 1000;
    if (seconds <= this.lastSent) return;
    if (this.credits < 1 || this.capturing) {
      this.skipped += 1;
      this.$(".skipped").textContent = this.skipped;
      return;
    }
    this.capturing = true; // one at a time, so that none overtakes another
    try {
      await this.#capture(settings, seconds);
    } finally {
      this.capturing = false;
    }
  }

  async #capture(settings, seconds) {
    const captured = performance.now();
    const jpeg = settings.picture ? await picture(this.video) : null;
    const sound = this.sound?.patch() ?? null;
    if (!jpeg && !sound) return;
    const content = await message({ sequence: this.sequence + 1, seconds, captured }, jpeg, sound);
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.credits -= 1;
    this.lastSent = seconds;
    this.sequence += 1;
    if (jpeg) this.#keep(seconds, jpeg);
    this.socket.send(content);
  }

  #keep(seconds, jpeg) {
    this.pictures.set(seconds, jpeg);
    if (this.pictures.size > KEPT_PICTURES) this.pictures.delete(this.pictures.keys().next().value);
  }

  #hear(heard) {
    this.credits += heard.credits ?? 0;
    if (heard.counts) {
      this.$(".labelled").textContent = heard.counts.labelled;
      this.$(".dropped").textContent = heard.counts.dropped;
    }
    if (heard.type === "Error") {
      this.page.fail(`${this.title}: ${plain(heard.message)}`);
      return;
    }
    if (heard.type === "Source") {
      this.#say(heard.state);
      this.$(".why").textContent = plain(heard.message);
      this.$(".why").hidden = !heard.message;
    }
    if (heard.type === "Finalized") {
      this.#say("ended");
      this.timeline.follow(heard.events);
      if (this.last) this.last.active = [];
      this.draw();
    }
    if (heard.type !== "Labels") return;
    if (this.pulled) this.#fetchPicture(heard.seconds);
    this.#say(this.pulled || !this.video.paused ? "live" : this.video.ended ? "played to its end" : "paused");
    this.last = heard;
    this.timeline.add(heard.seconds, heard.now, heard.events);
    for (const event of heard.events) if (event.kind === "new" && this.page.visible(event.index)) this.page.speak(event.name);
    this.#count(heard);
    this.draw();
  }

  #count(heard) {
    const now = performance.now();
    this.arrivals = [...this.arrivals.filter((time) => now - time < 10000), now];
    const covered = Math.max(1, (now - this.arrivals[0]) / 1000);
    if (this.arrivals.length > 1) this.$(".rate").textContent = ((this.arrivals.length - 1) / covered).toFixed(1);
    this.$(".inside").textContent = duration(heard.latency_ms.total);
    if (heard.captured == null) return;
    this.latencies = [...this.latencies.slice(-29), now - heard.captured];
    const sorted = [...this.latencies].sort((a, b) => a - b);
    const middle = sorted[Math.floor(sorted.length / 2)];
    this.$(".latency").textContent = `${duration(now - heard.captured)} (median ${duration(middle)})`;
  }

  /** Draws what is heard now, or the moment that is looked at. */
  draw() {
    const moment = this.viewed === null ? null : this.timeline.at(this.viewed);
    const scores = moment ? [...moment.scores] : (this.last?.now ?? []);
    const active = moment ? this.timeline.activeAt(moment.seconds) : new Set(this.last?.active ?? []);
    this.#drawBars(scores, active);
    this.timeline.draw(this.page.visible, moment?.seconds ?? null);
    this.$("h3").textContent = moment ? `at ${clock(moment.seconds)}` : this.isWhole ? "all of it" : "now";
  }

  #drawBars(scores, active) {
    const shown = scores.filter(([index, score]) => this.page.visible(index) && score >= this.page.threshold()).slice(0, BARS);
    const list = this.$(".bars");
    const wanted = new Set(shown.map(([index]) => index));
    this.rows = Math.max(this.rows, shown.length); // never less, so that nothing below moves up again
    list.style.height = `${this.rows * BAR_PIXELS}px`;
    for (const [index, bar] of this.bars) {
      if (wanted.has(index)) continue;
      bar.style.opacity = 0;
      bar.ariaHidden = "true";
      this.bars.delete(index);
      setTimeout(() => bar.remove(), 320);
    }
    // Screen readers read the bars in this order, best first, whatever order they came in.
    list.setAttribute("aria-owns", shown.map(([index]) => `bar-${this.number}-${index}`).join(" "));
    shown.forEach(([index, score], place) => {
      let bar = this.bars.get(index);
      if (!bar) {
        bar = document.createElement("li");
        const fill = document.createElement("div");
        const text = document.createElement("div");
        fill.className = "fill";
        text.className = "text";
        text.append(document.createElement("span"), document.createElement("span"));
        text.firstChild.textContent = this.page.nameOf(index);
        fill.style.transform = "scaleX(0)";
        bar.append(fill, text);
        bar.style.transform = `translateY(${place * BAR_PIXELS}px)`;
        list.append(bar);
        bar.getBoundingClientRect();
        bar.id = `bar-${this.number}-${index}`;
        this.bars.set(index, bar);
      }
      bar.className = active.has(index) ? "bar on" : "bar";
      bar.style.transform = `translateY(${place * BAR_PIXELS}px)`;
      bar.firstChild.style.transform = `scaleX(${score})`;
      bar.lastChild.lastChild.textContent = `${Math.round(score * 100)} %`;
    });
  }

  /** Shows a moment of the timeline: of a file the film, else the picture that was sent. */
  jump(seconds) {
    const moment = this.timeline.at(seconds);
    if (!moment) return;
    this.viewed = moment.seconds;
    this.$(".back").hidden = false;
    if (this.isFile) this.video.currentTime = moment.seconds;
    else this.#showStill(moment.seconds);
    this.draw();
  }

  step(by) {
    const { moments } = this.timeline;
    if (!moments.length) return;
    const at = this.viewed === null ? moments.length - 1 : moments.indexOf(this.timeline.at(this.viewed));
    this.jump(moments[Math.max(0, Math.min(moments.length - 1, at + by))].seconds);
  }

  live() {
    this.viewed = null;
    this.$(".back").hidden = true;
    this.still.hidden = !this.pulled;
    if (this.isFile && !this.isWhole && this.last) this.video.currentTime = Math.max(this.last.seconds, this.lastSent);
    this.draw();
  }

  /** Holds the film or the camera, which then sends nothing; of a pulled stream what is shown. */
  pause() {
    if (this.pulled) {
      if (this.viewed === null) this.step(0);
      else this.live();
    } else if (this.video.paused) this.video.play();
    else {
      this.video.pause();
      this.#say("paused");
    }
  }

  async #fetchPicture(seconds) {
    const jpeg = await getPicture(`/v1/streams/${this.pulled}/picture`).catch(() => null);
    if (!jpeg || this.done) return;
    this.#keep(seconds, jpeg);
    if (this.viewed === null) this.#showStill(seconds);
  }

  #showStill(seconds) {
    const jpeg = this.pictures.get(seconds);
    this.still.hidden = !jpeg;
    if (!jpeg) return;
    URL.revokeObjectURL(this.still.src);
    this.still.src = URL.createObjectURL(jpeg);
  }

  #seeked() {
    if (this.video.currentTime < this.lastSent - 0.5) this.viewed = this.video.currentTime;
    else this.viewed = null;
    this.$(".back").hidden = this.viewed === null;
    this.draw();
  }

  download(form) {
    const spans = this.timeline.all().map((span) => ({
      index: span.index,
      name: this.page.nameOf(span.index),
      start: span.start,
      end: span.end,
      best: span.best,
      best_at: span.best_at,
    }));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([rendered(form, spans)], { type: "text/plain" }));
    link.download = `${this.title.replace(/[^\w.-]+/g, "_")}.${form}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  close() {
    this.done = true;
    clearInterval(this.timer);
    clearInterval(this.keepAlive);
    this.#command("CloseStream");
    this.sending?.abort();
    this.socket?.close();
    this.sound?.close();
    this.media?.getTracks().forEach((track) => track.stop());
    if (this.url) URL.revokeObjectURL(this.url);
    this.root.remove();
    this.page.closed(this);
  }

  #command(type) {
    if (this.socket?.readyState === WebSocket.OPEN && !this.pulled) this.socket.send(JSON.stringify({ type }));
  }

  #say(text) {
    const state = this.$(".state");
    if (state.textContent !== text) state.textContent = text;
  }
}

const duration = (milliseconds) =>
  milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;

/** What a person is told of a message: without the name of its kind, which is for programs. */
const plain = (message) => message.replace(/^[a-z_]+: /, "");

function rendered(form, spans) {
  if (form === "json") return JSON.stringify({ labels: spans }, null, 2);
  if (form === "csv") {
    const quoted = (text) => `"${text.replace(/^[=+\-@]/, "'$&").replaceAll('"', '""')}"`;
    const rows = spans.map((span) => [span.index, quoted(span.name), span.start, span.end, span.best, span.best_at].join());
    return ["index,name,start_seconds,end_seconds,confidence,best_at_seconds", ...rows, ""].join("\n");
  }
  const time = (seconds) => new Date(1000 * seconds).toISOString().slice(11, 23);
  const text = (name) => name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const cues = spans.filter((span) => span.end > span.start);
  return ["WEBVTT", "", ...cues.flatMap((span) => [`${time(span.start)} --> ${time(span.end)}`, text(span.name), ""])].join("\n");
}
