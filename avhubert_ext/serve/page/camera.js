// Record from camera and microphone.

const TYPES = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];
const BITS_PER_SECOND = 4_000_000;
// Speech in noise should reach the model unprocessed.
const SOUND = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const PICTURE = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 25 } };

export async function openCamera(viewfinder) {
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    throw new Error(
      "The camera is not available: browsers allow it only on localhost or with HTTPS. Choose a file.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: PICTURE, audio: SOUND });
  } catch (error) {
    throw new Error(reasonOf(error));
  }
  viewfinder.srcObject = stream;
  await viewfinder.play();
  return new Camera(stream, viewfinder);
}

function reasonOf(error) {
  switch (error.name) {
    case "NotAllowedError":
      return "Camera and microphone are blocked: allow this page to use them.";
    case "NotFoundError":
      return "No camera with a microphone found: connect one, or choose a file.";
    default:
      return `The camera cannot be used (${error.message}): is another program using it?`;
  }
}

class Camera {
  constructor(stream, viewfinder) {
    this.stream = stream;
    this.viewfinder = viewfinder;
  }

  get recording() {
    return this.recorder?.state === "recording";
  }

  // Resolves to the recording after stop() or close() is called.
  record() {
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    this.recorder = new MediaRecorder(
      this.stream, { mimeType, videoBitsPerSecond: BITS_PER_SECOND });
    const parts = [];
    this.recorder.ondataavailable = (event) => parts.push(event.data);
    const recorded = new Promise((resolve) => {
      this.recorder.onstop = () => resolve(new Blob(parts, { type: this.recorder.mimeType }));
    });
    this.recorder.start();
    return recorded;
  }

  stop() {
    this.recorder.stop();
  }

  close() {
    this.stream.getTracks().forEach((track) => track.stop());
    this.viewfinder.srcObject = null;
  }
}
