// Two younger clients of Node, each with its own idea of reconnecting, against the broker.
import { AMQPClient } from '@cloudamqp/amqp-client';
import { Connection } from 'rabbitmq-client';
import assert from 'node:assert/strict';
import test from 'node:test';
import { control, mayKill, name, pause, url } from './broker.js';

test('@cloudamqp/amqp-client: publish with confirms, consume, properties', async () => {
  const client = new AMQPClient(url);
  const connection = await client.connect();
  const channel = await connection.channel();
  await channel.confirmSelect();
  const { name: queue } = await channel.queueDeclare('', { exclusive: true });
  const headers = { text: 'grüße', number: -5, list: [1, true, null], table: { a: 1.5 } };
  for (let number = 0; number < 200; number++) {
    await channel.basicPublish('', queue, `message ${number}`, { headers, deliveryMode: 2, correlationId: 'c' });
  }
  const got = [];
  await new Promise((resolve) =>
    channel.basicConsume(queue, { noAck: false }, async (message) => {
      got.push(message);
      await message.ack();
      if (got.length === 200) resolve();
    }),
  );
  assert.deepEqual(got.map((message) => message.bodyString()), Array.from({ length: 200 }, (_, n) => `message ${n}`));
  assert.deepEqual(got[0].properties.headers, headers);
  assert.equal(got[0].properties.correlationId, 'c');
  assert.equal((await channel.queueDeclare(queue, { passive: true })).messageCount, 0);
  await connection.close();
});

test('@cloudamqp/amqp-client: errors name what is missing', async () => {
  const connection = await new AMQPClient(url).connect();
  const channel = await connection.channel();
  await assert.rejects(channel.queueDeclare(name('none'), { passive: true }), /404|NOT_FOUND/);
  await connection.close();
});

test('rabbitmq-client: publisher, consumer with retries', async () => {
  const rabbit = new Connection(url);
  const [queue, exchange] = [name('queue'), name('exchange')];
  const got = [];
  const consumer = rabbit.createConsumer(
    {
      queue,
      queueOptions: { durable: true, autoDelete: true },
      qos: { prefetchCount: 2 },
      exchanges: [{ exchange, type: 'topic', autoDelete: true }],
      queueBindings: [{ exchange, routingKey: 'users.*' }],
    },
    async (message) => {
      got.push([message.body, message.redelivered]);
      if (message.body === 'again' && !message.redelivered) throw new Error('once more');
    },
  );
  consumer.on('error', () => {});
  await new Promise((resolve) => consumer.once('ready', resolve));
  const publisher = rabbit.createPublisher({ confirm: true, maxAttempts: 2 });
  await publisher.send({ exchange, routingKey: 'users.first' }, { id: 1 });
  await publisher.send({ exchange, routingKey: 'users.again' }, 'again');
  await publisher.send({ exchange, routingKey: 'nobody' }, 'lost');
  while (got.length < 3) await pause(5);
  assert.deepEqual(got, [
    [{ id: 1 }, false],
    ['again', false],
    ['again', true],
  ]);

  await Promise.all([publisher.close(), consumer.close()]);
  await rabbit.close();
});

test('rabbitmq-client: RPC by direct reply-to', async () => {
  const rabbit = new Connection(url);
  const calls = name('calls');
  const server = rabbit.createConsumer({ queue: calls, queueOptions: { autoDelete: true } }, async (request, reply) => {
    await reply(request.body * 2);
  });
  await new Promise((resolve) => server.once('ready', resolve));
  const client = rabbit.createRPCClient({ confirm: true });
  const answers = await Promise.all([1, 2, 3].map((number) => client.send(calls, number)));
  assert.deepEqual(answers.map((answer) => answer.body), [2, 4, 6]);
  await Promise.all([client.close(), server.close()]);
  await rabbit.close();
});

if (mayKill) {
  test('rabbitmq-client: goes on by itself after a kill', { timeout: 90_000 }, async () => {
    const rabbit = new Connection({ url, retryLow: 50, retryHigh: 500 });
    rabbit.on('error', () => {});
    const queue = name('survivor');
    const got = new Set();
    const consumer = rabbit.createConsumer({ queue, queueOptions: { durable: true } }, async ({ body }) => {
      got.add(body);
    });
    consumer.on('error', () => {});
    await new Promise((resolve) => consumer.once('ready', resolve));
    const publisher = rabbit.createPublisher({ confirm: true, maxAttempts: 20 });
    const confirmed = [];
    let stop = false;
    const publishing = (async () => {
      for (let number = 0; !stop; number++) {
        await publisher.send({ routingKey: queue, durable: true }, number);
        confirmed.push(number);
      }
    })();
    while (confirmed.length < 100) await pause(5);
    await control('kill');
    const before = confirmed.length;
    await control('start');
    while (confirmed.length < before + 100) await pause(5);
    stop = true;
    await publishing;
    while (!confirmed.every((number) => got.has(number))) await pause(5);
    await publisher.close();
    await consumer.close();
    const channel = await rabbit.acquire();
    await channel.queueDelete(queue);
    await channel.close();
    await rabbit.close();
  });
}
