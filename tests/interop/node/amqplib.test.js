// amqplib, the client of nearly every Node program, against the broker.
import amqp from 'amqplib';
import assert from 'node:assert/strict';
import test from 'node:test';
import { connected, control, generation, mayKill, name, pause, take, texts, url } from './broker.js';

test('hello world', () =>
  connected(async (connection) => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    assert.match(queue, /^amq\.gen-[A-Za-z0-9_-]{22}$/);
    channel.sendToQueue(queue, Buffer.from('Hello World!'));
    const [message] = await take(channel, queue, 1);
    assert.equal(message.content.toString(), 'Hello World!');
    assert.equal(message.fields.routingKey, queue);
    assert.equal(message.fields.redelivered, false);
  }));

test('server properties tell what the broker can do', () =>
  connected(async (connection) => {
    const { serverProperties } = connection.connection;
    assert.equal(serverProperties.product, 'RabbitMQ');
    assert.match(serverProperties.version, /^\d+\.\d+\.\d+/);
    for (const capability of [
      'publisher_confirms',
      'exchange_exchange_bindings',
      'basic.nack',
      'consumer_cancel_notify',
      'connection.blocked',
      'authentication_failure_close',
      'per_consumer_qos',
    ]) {
      assert.equal(serverProperties.capabilities[capability], true, capability);
    }
  }));

test('properties come back as they were sent', () =>
  connected(async (connection) => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const headers = {
      text: 'grüße',
      yes: true,
      no: false,
      nothing: null,
      small: 7,
      negative: -1,
      large: 2 ** 40,
      half: 0.5,
      list: [1, 'two', [3], { four: 4 }],
      table: { inner: { innermost: 'x' } },
      when: { '!': 'timestamp', value: 1_700_000_000 },
      price: { '!': 'decimal', value: { digits: 12345, places: 2 } },
    };
    channel.sendToQueue(queue, Buffer.alloc(0), {
      contentType: 'text/plain',
      contentEncoding: 'utf-8',
      headers,
      deliveryMode: 2,
      priority: 3,
      correlationId: 'c',
      replyTo: 'r',
      expiration: '60000',
      messageId: 'm',
      timestamp: 1_700_000_000,
      type: 't',
      userId: 'guest',
      appId: 'a',
    });
    const [message] = await take(channel, queue, 1);
    assert.equal(message.content.length, 0);
    assert.deepEqual(message.properties.headers, headers);
    const { contentType, deliveryMode, priority, expiration, timestamp, userId, appId } = message.properties;
    assert.deepEqual(
      [contentType, deliveryMode, priority, expiration, timestamp, userId, appId],
      ['text/plain', 2, 3, '60000', 1_700_000_000, 'guest', 'a'],
    );
  }));

test('a thousand confirms at once', () =>
  connected(async (connection) => {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue(name('confirms'), { durable: true });
    for (let number = 0; number < 1000; number++) {
      channel.sendToQueue(queue, Buffer.from(String(number)), { persistent: true });
    }
    await channel.waitForConfirms();
    assert.equal((await channel.checkQueue(queue)).messageCount, 1000);
    assert.deepEqual(texts(await take(channel, queue, 1000)), Array.from({ length: 1000 }, (_, n) => String(n)));
    assert.equal((await channel.deleteQueue(queue)).messageCount, 0);
  }));

test('what cannot be routed is returned before it is confirmed', () =>
  connected(async (connection) => {
    const channel = await connection.createConfirmChannel();
    const order = [];
    channel.on('return', (message) => order.push(['return', message.fields.replyCode, message.fields.replyText]));
    await new Promise((resolve) =>
      channel.publish('amq.direct', name('nowhere'), Buffer.from('x'), { mandatory: true }, (error) => {
        order.push(['confirm', error]);
        resolve();
      }),
    );
    assert.deepEqual(order, [
      ['return', 312, 'NO_ROUTE'],
      ['confirm', null],
    ]);
  }));

test('prefetch of each consumer and of the channel', () =>
  connected(async (connection) => {
    const publisher = await connection.createChannel();
    for (const [global, expected] of [
      [false, 4],
      [true, 2],
    ]) {
      const { queue } = await publisher.assertQueue('', { exclusive: true });
      for (let number = 0; number < 10; number++) publisher.sendToQueue(queue, Buffer.from('x'));
      const channel = await connection.createChannel();
      await channel.prefetch(2, global);
      let got = 0;
      await channel.consume(queue, () => got++);
      await channel.consume(queue, () => got++);
      await pause(150);
      assert.equal(got, expected, `global=${global}`);
      await channel.close();
      assert.equal((await publisher.checkQueue(queue)).messageCount, 10);
    }
  }));

test('nack puts a message back to its place', () =>
  connected(async (connection) => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (const text of ['a', 'b', 'c']) channel.sendToQueue(queue, Buffer.from(text));
    const held = await take(channel, queue, 3, { ack: false });
    channel.nack(held[1]);
    channel.nack(held[0]);
    channel.reject(held[2], false);
    const again = await take(channel, queue, 2);
    assert.deepEqual(texts(again), ['a', 'b']);
    assert.ok(again.every((message) => message.fields.redelivered));
  }));

test('topic, headers, fan-out and exchange to exchange', () =>
  connected(async (connection) => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const inner = name('inner');
    await channel.assertExchange(inner, 'fanout', { autoDelete: true, durable: false });
    await channel.bindQueue(queue, inner, '');
    await channel.bindExchange(inner, 'amq.topic', 'stock.*.#');
    await channel.bindExchange(inner, 'amq.topic', 'stock.#');
    await channel.bindQueue(queue, 'amq.match', '', { 'x-match': 'any', kind: 'a', size: 3 });
    channel.publish('amq.topic', 'stock', Buffer.from('one'));
    channel.publish('amq.topic', 'stocks.x', Buffer.from('no'));
    channel.publish('amq.topic', 'stock.x.y', Buffer.from('two'));
    channel.publish('amq.match', '', Buffer.from('no'), { headers: { kind: 'b' } });
    channel.publish('amq.match', '', Buffer.from('three'), { headers: { kind: 'b', size: 3 } });
    channel.publish(inner, 'any', Buffer.from('four'));
    assert.deepEqual(texts(await take(channel, queue, 4)), ['one', 'two', 'three', 'four']);
  }));

test('RPC by reply-to and correlation-id', () =>
  connected(async (connection) => {
    const server = await connection.createChannel();
    const { queue } = await server.assertQueue('', { exclusive: true });
    await server.consume(queue, (message) => {
      const answer = Buffer.from(message.content.toString().toUpperCase());
      server.sendToQueue(message.properties.replyTo, answer, { correlationId: message.properties.correlationId });
      server.ack(message);
    });
    const client = await connection.createChannel();
    const { queue: replies } = await client.assertQueue('', { exclusive: true });
    const waiting = new Map();
    await client.consume(
      replies,
      (message) => waiting.get(message.properties.correlationId)(message.content.toString()),
      { noAck: true },
    );
    const call = (text) =>
      new Promise((resolve) => {
        const correlationId = name('call');
        waiting.set(correlationId, resolve);
        client.sendToQueue(queue, Buffer.from(text), { replyTo: replies, correlationId });
      });
    assert.deepEqual(await Promise.all(['a', 'b', 'c'].map(call)), ['A', 'B', 'C']);
  }));

test('a consumer learns that its queue is gone', () =>
  connected(async (connection) => {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue(name('gone'), { durable: false, autoDelete: false });
    const cancelled = new Promise((resolve) => channel.consume(queue, resolve));
    await channel.checkQueue(queue);
    await channel.deleteQueue(queue);
    assert.equal(await cancelled, null);
  }));

// What goes wrong on a channel, and the reply that comes back for it.
const refusals = [
  ['a queue that is not there', 404, /NOT_FOUND - no queue '.*' in vhost '\/'/, (c) => c.checkQueue(name('none'))],
  ['an exchange that is not there', 404, /NOT_FOUND - no exchange '.*' in vhost '\/'/, (c) => c.checkExchange(name('none'))],
  ['a reserved name', 403, /ACCESS_REFUSED - queue name 'amq\.x' contains reserved prefix 'amq\.\*'/, (c) => c.assertQueue('amq.x')],
  [
    'another type of exchange',
    406,
    /PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq\.topic' in vhost '\/': received 'fanout' but current is 'topic'/,
    (c) => c.assertExchange('amq.topic', 'fanout'),
  ],
];
for (const [what, code, text, provoke] of refusals) {
  test(`refused with ${code}: ${what}`, () =>
    connected(async (connection) => {
      const channel = await connection.createChannel();
      channel.on('error', () => {});
      const bystander = await connection.createChannel();
      await assert.rejects(provoke(channel), (error) => error.code === code && text.test(error.message));
      const { queue } = await bystander.assertQueue('', { exclusive: true });
      assert.ok(queue);
    }));
}

test('an exclusive queue is locked for others', () =>
  connected(async (owner) => {
    const { queue } = await (await owner.createChannel()).assertQueue(name('mine'), { exclusive: true });
    await connected(async (other) => {
      const channel = await other.createChannel();
      channel.on('error', () => {});
      await assert.rejects(channel.checkQueue(queue), (error) => error.code === 405);
    });
  }));

test('a wrong password is refused with 403', async () => {
  const wrong = url.replace('guest:guest', 'guest:wrong');
  await assert.rejects(amqp.connect(wrong), /403|ACCESS_REFUSED|ACCESS-REFUSED/);
});

test('an unknown vhost is refused', async () => {
  // amqplib does not pass the code on; that it is 530 is seen by pika.
  await assert.rejects(amqp.connect(url.replace('%2F', 'nope')), /ConnectionClose/);
});

test('an unknown type of exchange', () =>
  connected(async (connection) => {
    const channel = await connection.createChannel();
    channel.on('error', () => {});
    // 4.x: an error of the channel. 3.x: of the connection.
    const expected = generation === 4 ? 406 : 503;
    await assert.rejects(channel.assertExchange(name('x'), 'nonsense'), (error) => {
      const code = error.code ?? connection.errors[0]?.code;
      return code === expected;
    });
  }));

test('a body of 5 MB travels in many frames', () =>
  connected(async (connection) => {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const body = Buffer.alloc(5_000_000, 'leveret ');
    channel.sendToQueue(queue, body);
    await channel.waitForConfirms();
    const [message] = await take(channel, queue, 1);
    assert.ok(body.equals(message.content));
  }));

test('heartbeats every second keep an idle connection', { timeout: 20_000 }, () =>
  connected(
    async (connection) => {
      assert.equal(connection.connection.heartbeat, 1);
      await pause(3500);
      assert.ok(await connection.createChannel());
      assert.deepEqual(connection.errors, []);
    },
    { url: `${url}?heartbeat=1` },
  ));

if (mayKill) {
  test('what was confirmed outlives kill -9', { timeout: 90_000 }, async () => {
    const queue = name('crash');
    const confirmed = [];
    let sent = 0;
    const connection = await amqp.connect(url);
    const over = new Promise((resolve) => connection.on('close', resolve));
    connection.on('error', () => {});
    const channel = await connection.createConfirmChannel();
    channel.on('error', () => {});
    await channel.assertQueue(queue, { durable: true });
    let killed = null;
    const publish = () => {
      const batch = sent + 200;
      for (; sent < batch; sent++) {
        const number = sent;
        try {
          channel.sendToQueue(queue, Buffer.from(String(number)), { persistent: true }, (error) => {
            if (!error) confirmed.push(number);
          });
        } catch {
          return;
        }
      }
      if (confirmed.length > 2000 && killed === null) killed = control('kill');
      setTimeout(publish, 2);
    };
    publish();
    await over;
    await killed;
    await control('start');
    await connected(async (again) => {
      const reader = await again.createChannel();
      const { messageCount } = await reader.checkQueue(queue);
      const got = texts(await take(reader, queue, messageCount)).map(Number);
      const expected = new Set(got);
      assert.equal(expected.size, got.length, 'a message came twice');
      assert.deepEqual(got, [...got].sort((a, b) => a - b), 'order');
      assert.deepEqual(confirmed.filter((number) => !expected.has(number)), [], 'confirmed and lost');
      assert.ok(got.every((number) => number < sent));
      await reader.deleteQueue(queue);
    });
  });
}

test('a connection that is closed with publishes behind it closes without an error', async () => {
  const connection = await amqp.connect(url);
  const errors = [];
  connection.on('error', (error) => errors.push(error));
  const channel = await connection.createChannel();
  const { queue } = await channel.assertQueue('', { exclusive: true });
  // They lie in the channel's buffer, and the close goes out before most of them.
  const body = Buffer.alloc(64);
  while (channel.sendToQueue(queue, body));
  await connection.close();
  assert.deepEqual(errors, []);
});
