/** A recording to replay: timeline and stereo wav of one made-up conversation. */
export function recording(id?: string): { timeline: unknown; audio: Uint8Array };
