// Show the mouth region and highlight the words in sync with the sound.

const SIZE = 96; // pixels of the mouth region, as on the sheets

export class Player {
  constructor(canvas, sound) {
    this.context = canvas.getContext("2d");
    this.sound = sound;
    this.sheets = [];
    this.words = [];
    sound.addEventListener("play", () => this.follow());
    sound.addEventListener("seeked", () => this.show());
  }

  // Open another clip at its first frame.
  async open(clip, { fps, sheet }) {
    this.clip = clip;
    this.sound.pause();
    this.sound.currentTime = 0;
    this.fps = fps;
    this.across = sheet;
    this.sheets = await Promise.all(Array.from({ length: clip.sheets }, async (_, n) => {
      const picture = new Image();
      picture.src = `/api/clips/${clip.id}/sheets/${n}`;
      await picture.decode();
      return picture;
    }));
    this.show();
  }

  // Change the sound of the clip, and keep the position.
  setSound(blob) {
    const { currentTime, paused } = this.sound;
    URL.revokeObjectURL(this.sound.src);
    this.sound.src = URL.createObjectURL(blob);
    this.sound.currentTime = currentTime;
    if (!paused) this.sound.play();
  }

  // words: [{ element, start, end }] to highlight at their times in seconds.
  setWords(words) {
    this.words = words;
    this.show();
  }

  playFrom(seconds) {
    this.sound.currentTime = seconds;
    this.sound.play();
  }

  follow() {
    this.show();
    if (!this.sound.paused) requestAnimationFrame(() => this.follow());
  }

  show() {
    const time = this.sound.currentTime;
    this.drawFrame(Math.min(Math.floor(time * this.fps), this.clip.frames - 1));
    for (const { element, start, end } of this.words) {
      element.classList.toggle("now", start <= time && time < end);
    }
  }

  drawFrame(number) {
    const sheet = this.sheets[Math.floor(number / this.across ** 2)];
    if (!sheet) return;
    const place = number % this.across ** 2;
    const [x, y] = [place % this.across, Math.floor(place / this.across)];
    this.context.drawImage(sheet, x * SIZE, y * SIZE, SIZE, SIZE, 0, 0, SIZE, SIZE);
  }
}
