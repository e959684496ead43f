declare module "virtual:colours" {
  /** 33 colours, evenly spaced, as hexadecimal text, "rrggbb" after "rrggbb". */
  export const cividis: string;
  export const viridis: string;
  export const puor: string;
}
