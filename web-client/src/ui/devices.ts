/** The lists of microphones and speakers. Names are known only once the microphone was allowed. */

import { AudioOutput } from "../audio/context";
import { make } from "./dom";

export class DevicePicker {
  readonly #select: HTMLSelectElement;
  readonly #kind: MediaDeviceKind;

  constructor(select: HTMLSelectElement, kind: MediaDeviceKind) {
    this.#select = select;
    this.#kind = kind;
  }

  /** Lists what is there; a chosen device that is gone stays chosen by name "not connected". */
  show(devices: MediaDeviceInfo[], chosen: string): void {
    const options = [option("", "System default")];
    for (const device of devices) {
      if (device.kind !== this.#kind || device.deviceId === "" || device.deviceId === "default") continue;
      options.push(option(device.deviceId, device.label || "Unnamed device"));
    }
    if (chosen !== "" && !options.some(({ value }) => value === chosen)) options.push(option(chosen, "Not connected"));
    this.#select.replaceChildren(...options);
    this.#select.value = chosen;
  }
}

export async function listDevices(): Promise<MediaDeviceInfo[]> {
  return (await navigator.mediaDevices?.enumerateDevices()) ?? [];
}

export function canChooseSpeaker(): boolean {
  return typeof AudioContext !== "undefined" && AudioOutput.canChoose();
}

export function option(value: string, text: string): HTMLOptionElement {
  const element = make("option", "", text);
  element.value = value;
  return element;
}
