/** Objects that users create beside the graph and options name by id: secrets, TLS credentials (`--object`, `object-add`). */
export interface UserObject {
  /** QOM type: 'secret', 'tls-creds-x509'. */
  readonly type: string;
  readonly id: string;
  readonly properties: Readonly<Record<string, unknown>>;
}
export type UserObjects = ReadonlyMap<string, UserObject>;
