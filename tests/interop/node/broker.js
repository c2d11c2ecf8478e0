// Connections, names and the broker's life for the tests of amqplib; see ../with_broker.py for the environment.
import amqp from 'amqplib';
import net from 'node:net';
import process from 'node:process';

export const url = process.env.AMQP_URL;
export const generation = Number(process.env.GENERATION);
export const mayKill = 'BROKER_CONTROL' in process.env;

let count = 0;
export const name = (what) => `amqplib.${what}.${process.pid}.${count++}`;

// Connects, runs `work(connection)`, closes. The connection's errors are kept in `connection.errors`.
export async function connected(work, options = {}) {
  const connection = await amqp.connect(options.url ?? url);
  connection.errors = [];
  connection.on('error', (error) => connection.errors.push(error));
  try {
    return await work(connection);
  } finally {
    await connection.close().catch(() => {});
  }
}

// Says `word` (`kill` or `start`) to whoever runs the broker; resolves when it is done.
export function control(word) {
  const [host, port] = process.env.BROKER_CONTROL.split(':');
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), host, () => socket.write(`${word}\n`));
    socket.once('data', () => {
      socket.end();
      resolve();
    });
    socket.once('error', reject);
    socket.once('close', () => reject(new Error(`could not ${word} the broker`)));
  });
}

// Collects `count` deliveries of `queue`; acks each unless told not to.
export function take(channel, queue, count, options = {}) {
  return new Promise((resolve, reject) => {
    const got = [];
    const tag = name('ctag');
    if (count === 0) return resolve(got);
    channel
      .consume(
        queue,
        (message) => {
          if (message === null) return reject(new Error('cancelled by the broker'));
          if (got.length === count) return;
          got.push(message);
          if (!options.noAck && options.ack !== false) channel.ack(message);
          if (got.length === count) channel.cancel(tag).then(() => resolve(got), reject);
        },
        { ...options, consumerTag: tag },
      )
      .catch(reject);
  });
}

export const texts = (messages) => messages.map((message) => message.content.toString());
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
