/** Small checked readers for JSON of a peer: a schema is a function that returns the typed value or throws `WireError`. */

/** A message of the server that breaks the protocol. `path` says where. */
export class WireError extends Error {
  constructor(
    readonly path: string,
    problem: string,
  ) {
    super(`${path}: ${problem}`);
    this.name = "WireError";
  }
}

export type Schema<T> = (value: unknown, path: string) => T;
export type Infer<S> = S extends Schema<infer T> ? T : never;

type Fields = Record<string, Schema<unknown>>;
type OptionalKeys<F extends Fields> = { [K in keyof F]: undefined extends Infer<F[K]> ? K : never }[keyof F];
type ObjectOf<F extends Fields> = { [K in Exclude<keyof F, OptionalKeys<F>>]: Infer<F[K]> } & {
  [K in OptionalKeys<F>]?: Infer<F[K]>;
};

export const string: Schema<string> = (value, path) => {
  if (typeof value !== "string") throw new WireError(path, "a text is wanted");
  return value;
};

/** A finite number. */
export const number: Schema<number> = (value, path) => {
  if (typeof value !== "number" || !Number.isFinite(value)) throw new WireError(path, "a number is wanted");
  return value;
};

export const boolean: Schema<boolean> = (value, path) => {
  if (typeof value !== "boolean") throw new WireError(path, "true or false is wanted");
  return value;
};

export const anything: Schema<unknown> = (value) => value;

export function optional<T>(schema: Schema<T>): Schema<T | undefined> {
  return (value, path) => (value === undefined ? undefined : schema(value, path));
}

export function nullable<T>(schema: Schema<T>): Schema<T | null> {
  return (value, path) => (value === null ? null : schema(value, path));
}

export function oneOf<const T extends string>(...words: T[]): Schema<T> {
  return (value, path) => {
    if (!words.includes(value as T)) throw new WireError(path, `one of ${words.join(", ")} is wanted`);
    return value as T;
  };
}

export function list<T>(schema: Schema<T>): Schema<T[]> {
  return (value, path) => {
    if (!Array.isArray(value)) throw new WireError(path, "a list is wanted");
    return value.map((item, i) => schema(item, `${path}[${i}]`));
  };
}

/** An object; fields that are not named are left out of the result. */
export function object<F extends Fields>(fields: F): Schema<ObjectOf<F>> {
  return (value, path) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new WireError(path, "an object is wanted");
    }
    const source = value as Record<string, unknown>;
    const result: Record<string, unknown> = {};
    for (const [name, schema] of Object.entries(fields)) {
      const read = schema(source[name], path === "" ? name : `${path}.${name}`);
      if (read !== undefined) result[name] = read;
    }
    return result as ObjectOf<F>;
  };
}
